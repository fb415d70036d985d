import pytest
import torch

from mempool.errors import LayoutMismatch, MemPoolError
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers


def planes(dtype, slots, heads, dim, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 100, (slots, heads, dim), generator=generator).to(dtype) for _ in range(count)]


def make_layout(dtype, page, layers, heads, dim, v_dim):
    item = dtype.itemsize
    return BlockLayout(
        kind="mha" if v_dim else "mla",
        dtype=str(dtype),
        page_size=page,
        layers=layers,
        heads=heads,
        k_plane_bytes=page * heads * dim * item,
        v_plane_bytes=page * heads * v_dim * item,
    )


@pytest.mark.parametrize(
    ("dtype", "page", "dim", "v_dim"),
    [
        (torch.bfloat16, 16, 64, 64),
        (torch.float32, 1, 8, 8),
        (torch.uint8, 1, 3, 5),
        (torch.bfloat16, 4, 64, 32),
        (torch.bfloat16, 16, 576, 0),
    ],
)
def test_a_gathered_block_holds_every_layer_of_its_page_in_order(dtype, page, dim, v_dim):
    layers, heads, slots = 3, 2, page * 10
    k = planes(dtype, slots, heads, dim, layers, seed=1)
    v = planes(dtype, slots, heads, v_dim, layers, seed=2) if v_dim else []
    buffers = PagedBuffers(k + v, make_layout(dtype, page, layers, heads, dim, v_dim))
    pages = torch.tensor([7, 2, 9])
    out = buffers.host_blocks(len(pages))
    buffers.gather(pages, out)

    for row, number in enumerate(pages.tolist()):
        expected = torch.cat(
            [p[number * page : (number + 1) * page].reshape(-1).view(torch.uint8) for p in k + v]
        )
        assert torch.equal(out[row], expected)

    empty = PagedBuffers([torch.zeros_like(p) for p in k + v], buffers.layout)
    empty.scatter(torch.tensor([1, 4, 0]), out)
    again = empty.host_blocks(3)
    empty.gather(torch.tensor([1, 4, 0]), again)
    assert torch.equal(again, out)


def test_scatter_leaves_other_pages_alone(make_paged):
    buffers = make_paged(8, seed=1)
    before = [plane.clone() for plane in buffers.engine_planes]
    buffers.scatter(torch.tensor([3]), torch.full((1, buffers.layout.block_bytes), 7, dtype=torch.uint8))
    for plane, old in zip(buffers.engine_planes, before, strict=True):
        assert torch.equal(plane[: 3 * 16], old[: 3 * 16])
        assert torch.equal(plane[4 * 16 :], old[4 * 16 :])
        assert not torch.equal(plane[3 * 16 : 4 * 16], old[3 * 16 : 4 * 16])


@pytest.mark.parametrize("pages", [[8], [-1], [0, 100]])
def test_a_page_outside_the_buffers_is_refused(make_paged, pages):
    buffers = make_paged(8)
    with pytest.raises(MemPoolError, match=r"not in \[0, 8\)"):
        buffers.gather(torch.tensor(pages), buffers.host_blocks(len(pages)))


def test_a_block_of_the_wrong_size_is_refused(make_paged):
    buffers = make_paged(8)
    with pytest.raises(MemPoolError, match="got"):
        buffers.scatter(torch.tensor([1]), torch.zeros((1, 5), dtype=torch.uint8))


def test_a_layout_mismatch_names_the_field():
    layout = make_layout(torch.bfloat16, 16, 3, 2, 64, 64)
    other = make_layout(torch.bfloat16, 16, 3, 1, 64, 64)
    with pytest.raises(LayoutMismatch, match="heads: 2 here, 1 at the peer"):
        layout.require_same(other)
    layout.require_same(make_layout(torch.bfloat16, 16, 3, 2, 64, 64))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8])
def test_blocks_round_trip_through_cuda_on_streams_of_their_own(dtype):
    layers, heads, dim, page, slots = 3, 2, 64, 16, 160
    k_and_v = [plane.cuda() for plane in planes(dtype, slots, heads, dim, 2 * layers)]
    shape = make_layout(dtype, page, layers, heads, dim, dim)
    source, target = PagedBuffers(k_and_v, shape), PagedBuffers([torch.zeros_like(p) for p in k_and_v], shape)
    there, back = source.host_blocks(3), source.host_blocks(3)
    assert there.is_pinned()
    source.gather(torch.tensor([7, 2, 9]), there)
    target.scatter(torch.tensor([1, 4, 0]), there, torch.cuda.current_stream().record_event())
    target.gather(torch.tensor([1, 4, 0]), back)
    assert torch.equal(there, back)
    assert torch.equal(there.cpu()[0, :8], k_and_v[0][7 * page].reshape(-1).view(torch.uint8)[:8].cpu())
