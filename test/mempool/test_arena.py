"""DRAM blocks, by themselves and at either end of the block channel."""

import pytest
import torch

from mempool.arena import DramArena
from mempool.errors import MemPoolError
from mempool.flags import TransferMode
from mempool.layout import BlockLayout


def random_arena(layout, blocks, seed=1):
    arena = DramArena(layout, blocks)
    arena.rows.random_(0, 256, generator=torch.Generator().manual_seed(seed))
    return arena


@pytest.fixture
def large():
    """Blocks of 64 KiB in 4 planes."""
    return BlockLayout(
        kind="mha", dtype="bfloat16", page_size=16, layers=2, heads=4,
        k_plane_bytes=1 << 14, v_plane_bytes=1 << 14,
    )  # fmt: skip


def test_rows_next_to_each_other_are_read_where_they_lie_as_one_frame(large):
    arena = random_arena(large, 8)
    frames = arena.views(torch.tensor([2, 3, 4, 7, 6, 0]))
    assert [frame.nbytes >> 16 for frame in frames] == [3, 1, 1, 1]
    expected = arena.rows[[2, 3, 4, 7, 6, 0]].reshape(-1)
    assert bytes(expected.numpy().data) == b"".join(frames)
    arena.rows[3].fill_(9)
    assert bytes(frames[0][1 << 16 : (1 << 16) + 4]) == b"\x09" * 4
    (part,) = arena.views(torch.tensor([5]), range(1, 3))
    assert part.tobytes() == bytes(arena.rows[5, 1 << 14 : 3 << 14].numpy().data)


def test_small_blocks_far_from_each_other_are_to_be_gathered(tools):
    arena = random_arena(tools.layout(layers=1), 8)
    assert arena.views(torch.tensor([1, 3])) is None
    assert len(arena.views(torch.tensor([1, 2, 3]))) == 1
    assert arena.views(torch.tensor([1, 2]), range(0, 1)) is None


@pytest.mark.parametrize("planes", [None, range(0, 4), range(1, 3), range(3, 4)])
@pytest.mark.parametrize("pages", [[1, 2, 3], [5, 2, 3, 0], [6], []])
def test_scatter_is_the_inverse_of_gather_and_leaves_other_cells_alone(large, planes, pages):
    source, target = random_arena(large, 8), random_arena(large, 8, seed=2)
    before, numbers = target.rows.clone(), torch.tensor(pages, dtype=torch.int64)
    width = large.row_bytes(planes or range(4))
    out = torch.empty((len(pages), width), dtype=torch.uint8)
    source.gather(numbers, out, planes)
    target.scatter(numbers, out, None, planes)
    start = (planes.start if planes else 0) << 14
    before[pages, start : start + width] = source.rows[pages, start : start + width]
    assert torch.equal(target.rows, before)


@pytest.mark.parametrize("pages", [[8], [-1], [0, 100]])
def test_a_block_outside_the_arena_is_refused(large, pages):
    arena = DramArena(large, 8)
    for call in (
        arena.views,
        lambda p: arena.gather(p, torch.empty((len(pages), 1 << 16), dtype=torch.uint8)),
    ):
        with pytest.raises(MemPoolError, match=r"not in \[0, 8\)"):
            call(torch.tensor(pages))


def test_blocks_of_the_wrong_size_are_refused(large):
    with pytest.raises(MemPoolError, match="got"):
        DramArena(large, 8).scatter(torch.tensor([1]), torch.zeros((1, 5), dtype=torch.uint8))


@pytest.mark.parametrize("ends", ["dram to dram", "hbm to dram", "dram to hbm"])
@pytest.mark.parametrize("mode", list(TransferMode))
@pytest.mark.parametrize("encrypt", [False, True])
def test_blocks_go_between_media(make_paged, make_channel, tools, ends, mode, encrypt):
    hbm, dram = make_paged(16, seed=3), random_arena(tools.layout(), 16)
    source = hbm if ends.startswith("hbm") else dram
    target = make_paged(16) if ends.endswith("hbm") else DramArena(tools.layout(), 16)
    channel = make_channel(source, target, encrypt=encrypt)
    src, dst = [9, 3, 4, 5, 1], [2, 8, 9, 11, 12]
    transfer, _, here = channel.begin(dst, mode=mode)
    transfer.send(torch.tensor(src), 0)
    transfer.finish(5)
    assert here.wait().error is None
    assert torch.equal(tools.blocks_of(target, dst), tools.blocks_of(source, src))


def test_one_sender_and_one_receiver_serve_several_stores(make_paged, make_channel, tools):
    hbm, dram = make_paged(8, seed=3), random_arena(tools.layout(), 8)
    channel = make_channel(hbm, make_paged(8))
    channel.carry_one(3)
    to_hbm, channel.source, channel.target = channel.target, dram, DramArena(tools.layout(), 8)
    channel.carry_one(4)
    assert torch.equal(tools.blocks_of(to_hbm, [3]), tools.blocks_of(hbm, [1]))


def test_a_large_block_is_cut_at_its_planes(large, make_channel, tools):
    source = random_arena(large, 4)
    channel = make_channel(source, DramArena(large, 4), to_sender={"piece_bytes": 1 << 15})
    channel.carry_one(2)
    assert channel.sender.messages_sent == 2
