"""The kernel that moves blocks over all planes, in Triton's interpreter: on a CPU, nothing is compiled."""

import importlib
import sys

import pytest
import torch

from mempool.planes import Planes


@pytest.fixture
def kernels(monkeypatch):
    """The module, as it is interpreted."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "mempool.plane_kernels", raising=False)
    module = importlib.import_module("mempool.plane_kernels")
    monkeypatch.setattr(module, "_TILE", 16)
    yield module
    sys.modules.pop("mempool.plane_kernels", None)


def random_planes(pages, row_bytes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (pages, size), dtype=torch.uint8, generator=generator) for size in row_bytes
    ]


LAYOUTS = {
    "mha": [256, 256, 256, 256],
    "k and v of different sizes": [384, 384, 128, 128],
    "mla": [1152, 1152, 1152],
    "page of a token, fp8": [64, 64],
    "rows of odd sizes": [3, 5, 5],
    "rows of two bytes": [6, 10],
    "rows of four bytes": [12, 4],
}


@pytest.mark.parametrize("row_bytes", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("planes", [slice(None), slice(1, 2), slice(0, -1)], ids=["all", "one", "some"])
def test_blocks_are_what_is_copied_plane_by_plane(kernels, row_bytes, planes):
    tensors = random_planes(7, row_bytes)
    planes, pages = range(len(row_bytes))[planes], torch.tensor([5, 0, 6])
    width = sum(row_bytes[planes.start : planes.stop])
    expected, moved = torch.zeros((3, width), dtype=torch.uint8), torch.zeros((3, width), dtype=torch.uint8)
    Planes(tensors, row_bytes).gather(pages, expected, planes)
    kernels.PlaneKernels(tensors, row_bytes).gather(pages, moved, planes)
    assert torch.equal(moved, expected)

    here, there = random_planes(7, row_bytes, seed=2), random_planes(7, row_bytes, seed=2)
    Planes(there, row_bytes).scatter(torch.tensor([1, 4, 2]), expected, planes)
    kernels.PlaneKernels(here, row_bytes).scatter(torch.tensor([1, 4, 2]), expected, planes)
    for mine, other in zip(here, there, strict=True):
        assert torch.equal(mine, other)


def test_no_blocks_are_no_launch(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "_move", None)
    tensors = random_planes(2, [8])
    empty = torch.empty(0, dtype=torch.int64)
    kernels.PlaneKernels(tensors, [8]).gather(empty, torch.empty((0, 8), dtype=torch.uint8), range(1))
