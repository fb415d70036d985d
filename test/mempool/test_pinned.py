"""Pinned memory of the size that was asked for, on a CUDA runtime that takes notes."""

import gc
import mmap

import pytest
import torch

from mempool import pinned
from mempool.arena import DramArena
from mempool.device import CudaDevice
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout
from mempool.pinned import chunk_rows, pinned_memory

PAGE = mmap.PAGESIZE


class Runtime:
    """`registered`: sizes by address. Registrations may not share a page of memory."""

    def __init__(self, fails_at=None):
        self.registered, self.calls, self.fails_at = {}, 0, fails_at

    def cudaHostRegister(self, address, size, flags):
        if self.calls == self.fails_at or address % PAGE:
            return 2
        self.calls += 1
        self.registered[address] = size
        return 0

    def cudaHostUnregister(self, address):
        del self.registered[address]
        return 0


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(pinned, "_CHUNK_BYTES", 4 * PAGE)


def test_what_is_asked_for_is_pinned_until_its_last_view_is_gone():
    runtime = Runtime()
    memory = pinned_memory(33 * PAGE, PAGE, runtime)
    assert memory.nbytes == sum(runtime.registered.values()) == 33 * PAGE
    assert sorted(runtime.registered)[0] == memory.data_ptr()
    view = memory.view(33, PAGE)[3:5]
    view.fill_(7)
    del memory
    gc.collect()
    assert len(runtime.registered) == 9
    assert int(view.sum()) == 14 * PAGE
    del view
    gc.collect()
    assert runtime.registered == {}


@pytest.mark.parametrize("row_bytes", [1, 96, 1000, PAGE // 2, 3 * PAGE, 5 * PAGE, 4 * PAGE + 32])
def test_rows_are_registered_whole_and_from_a_page_on(row_bytes):
    rows = chunk_rows(row_bytes)
    assert rows * row_bytes % PAGE == 0
    runtime = Runtime()
    memory = pinned_memory(3 * rows * row_bytes, row_bytes, runtime)
    assert sorted(runtime.registered) == [memory.data_ptr() + n * rows * row_bytes for n in range(3)]


def test_what_cuda_does_not_take_leaves_nothing_pinned():
    runtime = Runtime(fails_at=2)
    with pytest.raises(
        MemPoolError, match=r"pin 16384 of 135168 bytes .* \(error 2\): lower --memserve-dram"
    ):
        pinned_memory(33 * 4096, 4096, runtime)
    gc.collect()
    assert runtime.registered == {}


def test_no_copy_of_blocks_goes_beyond_a_registration(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr("mempool.device._SMALL_BYTES", 0)
    layout = BlockLayout(
        kind="mla", dtype="uint8", page_size=1, layers=2, heads=1, k_plane_bytes=PAGE // 2, v_plane_bytes=0
    )
    arena = DramArena(layout, 12, CudaDevice(torch.device("cuda")))
    parts = arena.parts(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0]))
    assert [len(part) for part in parts] == [3, 4, 2, 1, 1]
    assert parts[1].data_ptr() == arena.rows[4].data_ptr()
