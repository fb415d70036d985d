"""shm://: blocks are read from where they lie, and nothing is left behind."""

import mmap
import os

import pytest
import torch

from mempool.flags import TransferMode
from mempool.paged import PagedBuffers
from mempool.shared_memory import SharedRegion
from mempool.transfer.landing import BlockSink


def send_all(channel, pages, **how):
    transfer, there, here = channel.begin(pages, **how)
    transfer.send(torch.arange(len(pages)), 0)
    transfer.finish(len(pages))
    assert here.wait().error is None
    assert there.wait().error is None


@pytest.mark.parametrize("mode", [TransferMode.AGGREGATED, TransferMode.BY_LAYER])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["mha", "mla"])
@pytest.mark.parametrize("plane_bytes", [1 << 9, 3 << 12, 3 << 20])
def test_blocks_of_any_layout_arrive_as_they_were(
    make_channel, make_arena, make_layout, plane_bytes, kind, shared, mode
):
    layout = make_layout(plane_bytes, kind)
    source = make_arena(6, filled=True, shared=shared, layout=layout)
    channel = make_channel(source, make_arena(6, layout=layout), url="shm://")
    send_all(channel, [5, 0, 1, 3], mode=mode)
    assert torch.equal(channel.target.rows[[5, 0, 1, 3]], source.rows[:4])
    assert not channel.target.rows[[2, 4]].any()


def test_what_lies_in_shared_memory_is_not_copied_before_it_is_sent(make_channel, make_arena):
    source, target = make_arena(filled=True), make_arena(shared=False)

    def no_copy(*_):
        raise AssertionError("copied")

    source.gather = target.scatter = no_copy
    send_all(make_channel(source, target, url="shm://"), [4, 2, 7])
    assert torch.equal(target.rows[[4, 2, 7]], source.rows[:3])


def test_what_an_engine_takes_from_where_it_lies_needs_no_memory_beside(
    make_channel, make_arena, make_layout, monkeypatch
):
    layout, pages = make_layout(), torch.tensor([4, 2, 7])
    target = PagedBuffers([torch.zeros(8 * 16, 1 << 10, dtype=torch.uint8) for _ in range(4)], layout)
    there = target.host_blocks(3)
    monkeypatch.setattr(PagedBuffers, "host_bytes", lambda *_: 1 / 0)
    source = make_arena(filled=True)
    send_all(make_channel(source, target, url="shm://"), pages.tolist())
    target.gather(pages, there)
    assert torch.equal(there, source.rows[:3])


def test_nothing_is_encrypted_between_processes_of_one_user(make_channel, make_arena, monkeypatch):
    monkeypatch.setattr("mempool.transfer.sealing.MessageSealer.seal", lambda *_: 1 / 0)
    channel = make_channel(make_arena(filled=True), make_arena(), url="shm://", encrypt=True)
    send_all(channel, [4, 2, 7])
    assert torch.equal(channel.target.rows[[4, 2, 7]], channel.source.rows[:3])


def test_a_withdrawn_ticket_takes_no_more_bytes_of_a_message(
    make_channel, make_arena, make_layout, monkeypatch
):
    layout = make_layout(5 << 20, layers=1)
    channel = make_channel(
        make_arena(4, filled=True, layout=layout), make_arena(4, layout=layout), url="shm://"
    )
    fill, filled = BlockSink.fill, []

    def withdrawn_amid(sink, read):
        filled.append(fill(sink, read))
        if len(filled) == 1:
            assert channel.target.rows[2].any()
            channel.receiver.withdraw(*channel.receiver._expected)
            channel.target.rows[2].fill_(7)
        return filled[-1]

    monkeypatch.setattr(BlockSink, "fill", withdrawn_amid)
    transfer, _, here = channel.begin([2])
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1)
    assert "does not wait" in str(here.wait().error)
    assert len(filled) > 1
    assert bool((channel.target.rows[2] == 7).all())
    channel.carry_one(3)


def test_two_hundred_connections_leave_nothing_behind(make_channel, channel, what_is_held, tools):
    channel.carry_one(3)
    before = what_is_held()
    for _ in range(200):
        other = make_channel(channel.source, channel.target, url="shm://")
        other.carry_one(2, receiver=channel.receiver)
        other.close()
        other.close = lambda: None
    tools.until(lambda: what_is_held() <= before)


def test_a_store_that_is_gone_leaves_nothing_behind(make_arena, what_is_held):
    before = what_is_held()
    store = make_arena(filled=True)
    assert what_is_held() != before
    del store
    assert what_is_held() <= before


@pytest.fixture
def descriptor():
    region = SharedRegion(1 << 16)
    region.bytes[:] = 5
    found = os.dup(region.fd)
    yield found
    os.close(found)


def test_who_has_the_descriptor_reads_and_does_nothing_else(descriptor):
    with mmap.mmap(descriptor, 1 << 16, prot=mmap.PROT_READ) as found:
        assert bytes(found[:100]) == b"\5" * 100
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 1 << 16)
    for change in (
        lambda: os.pwrite(descriptor, b"x", 0),
        lambda: os.ftruncate(descriptor, 0),
        lambda: os.ftruncate(descriptor, 1 << 20),
    ):
        with pytest.raises(PermissionError):
            change()
