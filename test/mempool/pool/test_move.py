"""What becomes of the source, and what the receiver gets."""

import pytest
import torch
from small_blocks import DRAM, HBM, tokens

from mempool.errors import BadAddress, MemPoolError, OutOfBlocks, Refused
from mempool.flags import TransferFlags


def test_moved_blocks_are_only_there(world):
    a, b = world.pair()
    own, data = a.filled(3)
    landed = a.transfer("b", own, flags=TransferFlags(move=True))
    assert a.lacks_nothing(HBM)
    assert torch.equal(b.stored(landed.addresses), data)
    a.free_mem(landed.addresses)
    own, data = a.published(tokens(4))
    a.transfer_with_insert("b", tokens(4), own, flags=TransferFlags(move=True))
    assert a.lacks_nothing(HBM)
    assert a.match(tokens(4)).blocks == 0
    assert torch.equal(b.found(tokens(4)), data)


def test_a_move_leaves_what_is_leased_where_it_is(world):
    a, b = world.pair()
    own, data = a.published(tokens(2))
    with a.match(tokens(2)):
        a.transfer_with_insert("b", tokens(2), own, flags=TransferFlags(move=True))
    assert torch.equal(a.found(tokens(2)), data)
    assert torch.equal(b.found(tokens(2)), data)


def test_a_move_that_fails_moves_nothing(world):
    a, _ = world.pair()
    own, data = a.published(tokens(3))
    with pytest.raises(OutOfBlocks):
        a.transfer("b", [own] * 6, flags=TransferFlags(move=True))
    assert torch.equal(a.found(tokens(3)), data)


def test_a_move_ends_also_where_the_source_was_freed_meanwhile(slow_pair):
    a, b, slow = slow_pair
    own, data = a.filled(4)
    moving = a.start.transfer("b", own, flags=TransferFlags(move=True))
    assert slow.entered.wait(20)
    a.free_mem(own)
    assert a.used(HBM) == (12, 4, 0)
    slow.open.set()
    landed = moving.result(20)
    assert torch.equal(b.stored(landed.addresses), data)
    assert a.lacks_nothing(HBM)


def test_the_receiver_gets_blocks_and_cookie(world):
    received = []
    a, b = world.pair(on_received=received.append)
    own, data = a.published(tokens(2))
    landed = a.transfer("b", own, private=b"one")
    a.transfer_with_insert("b", tokens(2), own, private=b"two")
    first, second = received
    assert (first.instance, first.private, first.published) == ("a", b"one", False)
    assert first.addresses == landed.addresses
    assert (second.private, second.published) == (b"two", True)
    assert b.counters()["held_blocks"] == 0
    assert torch.equal(b.stored(first.addresses), data)
    with pytest.raises(BadAddress, match="not held for a"):
        a.free_mem(landed.addresses)
    b.free_mem(first.addresses)
    assert b.used(DRAM) == (14, 0, 2)


def test_a_callback_that_raises_fails_the_senders_transfer(world):
    def refuse(received):
        b.free_mem(received.addresses)
        raise MemPoolError("not wanted")

    a, b = world.pair(on_received=refuse)
    own, _ = a.filled(2)
    with pytest.raises(Refused, match="not wanted"):
        a.transfer("b", own)
    assert b.lacks_nothing()
    assert b.counters()["incoming"] == a.counters()["outgoing"] == 0


def test_a_transfer_whose_head_is_deleted_is_refused(slow_pair):
    a, b, slow = slow_pair
    own, _ = a.filled(4)
    slow.open.set()
    a.transfer_with_insert("b", tokens(2), own[:2])
    slow.open.clear()
    slow.entered.clear()
    late = a.start.transfer_with_insert("b", tokens(4), own)
    assert slow.entered.wait(20)
    b.delete(tokens(2))
    slow.open.set()
    with pytest.raises(Refused, match="not indexed"):
        late.result(20)
    assert b.lacks_nothing()
    assert b.counters()["leases"] == 0


def test_blocks_under_way_are_invisible_and_their_source_is_kept(slow_pair):
    a, b, slow = slow_pair
    own, data = a.filled(4)
    under_way = a.start.transfer_with_insert("b", tokens(4), own)
    assert slow.entered.wait(20)
    assert b.match(tokens(4)).blocks == 0
    a.free_mem(own)
    other, _ = a.filled(12)
    assert not set(other.blocks) & set(own.blocks)
    with pytest.raises(OutOfBlocks):
        a.alloc_mem(1, HBM)
    slow.open.set()
    under_way.result(20)
    assert torch.equal(b.found(tokens(4)), data)
    assert len(a.alloc_mem(4, HBM)) == 4
