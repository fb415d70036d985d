"""Tiers of a size that the user writes, and bytes between them."""

from functools import partial
from types import SimpleNamespace

import psutil
import pytest
import torch

from mempool import device, host_memory
from mempool.address import Medium, Owner
from mempool.layout import BlockLayout
from mempool.tiers.copies import BlockCopies, copy_blocks
from mempool.tiers.tier import Tier, device_buffers, dram_arena

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=4, layers=2, heads=1, k_plane_bytes=256, v_plane_bytes=256
)
MAKE = [device_buffers, dram_arena]


@pytest.fixture
def free_memory(monkeypatch):
    """Says how much memory the machine has free."""

    def say(count):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))

    return say


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize(
    ("size", "blocks"), [("16KiB", 16), ("50%", 32), ("7 blocks", 7), (7, 7), ("3000", 2)]
)
def test_a_store_has_the_size_that_the_user_writes(free_memory, make, size, blocks):
    free_memory(64 << 10)
    store = make(LAYOUT, size)
    assert store.num_blocks == blocks
    assert store.layout == LAYOUT


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("size", ["65KiB", "65 blocks", 65])
def test_a_store_that_the_machine_has_no_memory_for_is_refused_at_start(free_memory, make, size):
    free_memory(64 << 10)
    with pytest.raises(ValueError, match="but 64 KiB are available"):
        make(LAYOUT, size)


@pytest.mark.parametrize("make", MAKE)
def test_more_than_this_very_machine_has_is_refused(make):
    with pytest.raises(ValueError, match="are available"):
        make(LAYOUT, "1000000 TiB")


def test_a_share_of_memory_is_one_of_what_the_container_allows(free_memory, monkeypatch, tmp_path):
    free_memory(64 << 10)
    (tmp_path / "memory.max").write_text(str(20 << 10))
    (tmp_path / "memory.current").write_text(str(4 << 10))
    monkeypatch.setattr(device, "available_memory", partial(host_memory.available_memory, tmp_path))
    assert dram_arena(LAYOUT, "50%").num_blocks == 8
    with pytest.raises(ValueError, match="but 16 KiB are available"):
        dram_arena(LAYOUT, "17 blocks")


def test_blocks_beyond_the_staging_memory_are_copied_in_parts(monkeypatch):
    monkeypatch.setattr("mempool.tiers.copies._STAGING_BYTES", 3 * LAYOUT.block_bytes)
    source = Tier.of(Owner("a", 1, Medium.HBM), device_buffers(LAYOUT, 8))
    target = Tier.of(Owner("a", 1, Medium.DRAM), dram_arena(LAYOUT, 8))
    data = torch.randint(0, 256, (8, LAYOUT.block_bytes), dtype=torch.uint8)
    source.store.scatter(torch.arange(8), data)
    read, written = source.allocator.alloc(7), target.allocator.alloc(7)
    copy_blocks(source, read, target, written)
    assert torch.equal(target.store.rows[torch.from_numpy(written.blocks).long()], data[:7])


@pytest.mark.parametrize(
    "rows", [[2, 3, 4, 5], [7, 0, 4, 2], [6, 7, 1, 0]], ids=["a run", "scattered", "some"]
)
@pytest.mark.parametrize("page_bytes", [256, 16 << 10], ids=["small planes", "large planes"])
@pytest.mark.parametrize("into_dram", [True, False], ids=["to DRAM", "from DRAM"])
def test_bytes_are_the_same_however_blocks_lie_in_dram(rows, page_bytes, into_dram):
    layout = BlockLayout(
        kind="mha",
        dtype="uint8",
        page_size=4,
        layers=2,
        heads=1,
        k_plane_bytes=page_bytes,
        v_plane_bytes=page_bytes,
    )
    engine, dram = device_buffers(layout, 8), dram_arena(layout, 8)
    source, target = (engine, dram) if into_dram else (dram, engine)
    data = torch.randint(0, 256, (8, layout.block_bytes), dtype=torch.uint8)
    source.scatter(torch.arange(8), data)
    pages, rows = torch.tensor([5, 1, 6, 3]), torch.tensor(rows)
    read, written = (pages, rows) if into_dram else (rows, pages)
    BlockCopies(source, target).copy(read, written)
    arrived = torch.empty(4, layout.block_bytes, dtype=torch.uint8)
    target.gather(written, arrived)
    assert torch.equal(arrived, data[read])
