"""Blocks from one instance to another, and into its index."""

import time

import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, tokens

from mempool.address import Addresses
from mempool.errors import BadAddress, OutOfBlocks, Refused
from mempool.flags import TransferFlags, TransferMode

SCHEMES = ["inproc", "stream", "tcp", "ipc"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("source", [HBM, DRAM])
@pytest.mark.parametrize("medium", [HBM, DRAM])
def test_blocks_arrive_whole_between_any_media(world, scheme, source, medium):
    a, b = world.pair(scheme)
    blocks, data = a.filled(6, source)
    scattered = Addresses(blocks.owner, blocks.blocks[[4, 0, 5, 2]])
    landed = a.transfer("b", scattered, flags=TransferFlags(medium=medium), private=b"cookie")
    assert (landed.present, landed.private) == (0, b"cookie")
    assert landed.addresses.medium == medium
    assert torch.equal(b.stored(landed.addresses), data[[4, 0, 5, 2]])
    assert b.used(medium) == (12, 4, 0)
    a.free_mem(landed.addresses)
    assert b.lacks_nothing(medium)
    assert a.used(source) == (10, 6, 0)


@pytest.mark.parametrize("mode", list(TransferMode))
def test_every_mode_carries_the_same_bytes_from_both_media_at_once(world, mode):
    a, b = world.pair()
    high, first = a.filled(3, HBM)
    low, second = a.filled(3, DRAM)
    landed = a.transfer("b", [high, low, high[:1]], flags=TransferFlags(mode=mode))
    assert torch.equal(b.stored(landed.addresses), torch.cat([first, second, first[:1]]))


@pytest.mark.parametrize("medium", [HBM, DRAM])
def test_blocks_go_where_the_caller_says(world, medium):
    a, b = world.pair()
    target = a.alloc_mem(3, medium, "b")
    wanted = Addresses(target.owner, target.blocks[::-1].copy())
    own, data = a.filled(3)
    landed = a.transfer("b", own, wanted)
    assert landed.addresses == wanted
    assert torch.equal(b.stored(wanted), data)
    assert b.used(medium) == (13, 3, 0)
    a.free_mem(wanted)


def test_a_target_of_another_size_or_that_is_free_is_refused(world):
    a, b = world.pair()
    target = a.alloc_mem(3, DRAM, "b")
    own, _ = a.filled(2)
    with pytest.raises(BadAddress, match="3 blocks named for 2 offered"):
        a.transfer("b", own, target)
    a.free_mem(target)
    with pytest.raises(BadAddress, match="is free"):
        a.transfer("b", own, target[:2])
    assert b.lacks_nothing()
    a.free_mem(own)
    assert a.lacks_nothing(HBM)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_inserted_at_the_other_instance_is_matched_there(world, scheme):
    a, b = world.pair(scheme)
    own, data = a.published(tokens(4))
    landed = a.transfer_with_insert("b", tokens(4), own, private=b"x")
    assert torch.equal(b.found(tokens(4)), data)
    assert b.used(DRAM) == (12, 0, 4)
    assert (landed.present, landed.private) == (0, b"x")
    assert b.counters()["held_blocks"] == 0


def test_what_the_other_instance_has_already_is_not_sent(world):
    a, b = world.pair()
    own, data = a.filled(5)
    a.transfer_with_insert("b", tokens(3), own[:3])
    before = a.counters()["bytes_sent"]
    landed = a.transfer_with_insert("b", tokens(5), own)
    assert landed.present == 3
    assert len(landed.addresses) == 2
    assert a.counters()["bytes_sent"] - before == 2 * LAYOUT.block_bytes
    assert torch.equal(b.found(tokens(5)), data)
    again = a.transfer_with_insert("b", tokens(5), own)
    assert (again.present, len(again.addresses)) == (5, 0)
    assert b.used(DRAM) == (11, 0, 5)


def test_the_tail_of_a_sequence_is_inserted_where_its_head_is(world):
    a, b = world.pair()
    own, data = a.filled(5)
    with pytest.raises(Refused, match="the 3 blocks before those offered are not here"):
        a.transfer_with_insert("b", tokens(5), own[3:])
    with pytest.raises(Refused, match="1 blocks more than whole blocks of tokens"):
        a.transfer_with_insert("b", tokens(4), own)
    assert b.lacks_nothing()
    a.transfer_with_insert("b", tokens(3), own[:3])
    a.transfer_with_insert("b", tokens(5), own[3:])
    assert torch.equal(b.found(tokens(5)), data)


def test_held_blocks_belong_to_the_receiver_once_published(world):
    a, b = world.pair()
    own, data = a.filled(3)
    target = a.alloc_mem(3, HBM, "b")
    a.transfer_with_insert("b", tokens(3), own, target)
    assert torch.equal(b.found(tokens(3)), data)
    assert b.counters()["held_blocks"] == 0
    with pytest.raises(BadAddress):
        a.free_mem(target)
    twice = a.alloc_mem(3, HBM, "b")
    a.transfer_with_insert("b", tokens(3), own, twice)
    assert b.used(HBM) == (13, 0, 3)


def test_a_namespace_goes_with_what_is_inserted(world):
    a, b = world.pair()
    own, _ = a.filled(2)
    a.transfer_with_insert("b", tokens(2), own, namespace="tenant")
    assert b.match(tokens(2)).blocks == 0
    with b.match(tokens(2), namespace="tenant") as found:
        assert found.blocks == 2


def test_what_is_pinned_is_kept_for_so_long_and_no_longer(world):
    a, b = world.pair()
    own, data = a.filled(4)
    a.transfer_with_insert("b", tokens(4), own, flags=TransferFlags(pin_s=1.0))
    with pytest.raises(OutOfBlocks):
        b.alloc_mem(13, DRAM)
    assert torch.equal(b.found(tokens(4)), data)
    deadline = time.monotonic() + 10
    while b.counters()["leases"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    b.free_mem(b.alloc_mem(16, DRAM))


@pytest.mark.parametrize(("pin_s", "match"), [(-1.0, "not -1"), (float("nan"), "nan"), (3601.0, "3601")])
def test_a_pin_that_nobody_grants_is_refused_at_once(world, pin_s, match):
    a, _ = world.pair()
    own, _ = a.filled(1)
    with pytest.raises(ValueError, match=match):
        a.transfer_with_insert("b", tokens(1), own, flags=TransferFlags(pin_s=pin_s))
    with pytest.raises(ValueError, match="published"):
        a.transfer("b", own, flags=TransferFlags(pin_s=1.0))
    assert a.counters()["outgoing"] == 0
