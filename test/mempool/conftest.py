import pytest
import torch

from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers

PAGE_SIZE, HEADS, DIM = 16, 3, 64


def layout(layers: int = 4, kind: str = "mha") -> BlockLayout:
    plane = PAGE_SIZE * HEADS * DIM * 2
    return BlockLayout(
        kind=kind,
        dtype="bfloat16",
        page_size=PAGE_SIZE,
        layers=layers,
        heads=HEADS,
        k_plane_bytes=plane,
        v_plane_bytes=plane if kind == "mha" else 0,
    )


def paged(pages: int, *, seed: int | None = None, layers: int = 4, kind: str = "mha") -> PagedBuffers:
    """Buffers as an engine has them, `[slots, heads, dim]` a plane: zeros, or random by `seed`."""
    generator = torch.Generator().manual_seed(seed or 0)
    shape = (pages * PAGE_SIZE, HEADS, DIM)
    count = len(layout(layers, kind).plane_bytes)
    planes = [
        torch.zeros(shape, dtype=torch.bfloat16)
        if seed is None
        else torch.randn(shape, generator=generator).to(torch.bfloat16)
        for _ in range(count)
    ]
    buffers = PagedBuffers(planes, layout(layers, kind))
    buffers.engine_planes = planes
    return buffers


@pytest.fixture
def make_paged():
    return paged
