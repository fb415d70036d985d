"""The KV of a running request moves to another instance, which goes on with it."""

import pytest
import torch
from small_blocks import HBM, tokens
from waiting import until

from mempool.errors import PeerDied, Refused, TransferError
from mempool.flags import TransferFlags

TO_HBM = TransferFlags(medium=HBM)
MOVE = TransferFlags(medium=HBM, move=True)


def write(pool, addresses):
    """What a decode step adds to the last block."""
    data = torch.randint(0, 256, (1, pool.local.layout.block_bytes), dtype=torch.uint8)
    pool.local.tier(HBM).store.scatter(torch.from_numpy(addresses.blocks).long(), data)
    return data


@pytest.mark.parametrize("scheme", ["inproc", "stream"])
def test_a_request_goes_on_elsewhere_with_the_same_kv(world, scheme):
    taken = []
    a, b = world.pair(scheme, on_received=taken.append)
    own, data = a.filled(5)
    whole = a.transfer("b", own[:4], flags=TO_HBM, private=b"request 7, whole blocks")
    last = write(a, own[4:])
    rest = a.transfer("b", own[4:], flags=TO_HBM, private=b"request 7, 3 tokens")
    assert a.used(HBM) == (11, 5, 0)
    a.free_mem(own)
    assert a.lacks_nothing(HBM)
    assert [(each.instance, each.private, each.published) for each in taken] == [
        ("a", b"request 7, whole blocks", False),
        ("a", b"request 7, 3 tokens", False),
    ]
    assert [each.addresses for each in taken] == [whole.addresses, rest.addresses]
    assert torch.equal(b.stored([each.addresses for each in taken]), torch.cat([data[:4], last]))
    # They are the target's: it publishes them when the request has ended, though the source is gone.
    b._cluster.forget("a", None)
    b.insert(tokens(5), [each.addresses for each in taken])
    assert b.used(HBM) == (11, 0, 5)


def test_moved_blocks_are_free_at_the_source_once_they_have_landed(world):
    taken = []
    a, b = world.pair(on_received=taken.append)
    own, data = a.filled(3)
    a.transfer("b", own, flags=MOVE)
    assert a.lacks_nothing(HBM)
    assert torch.equal(b.stored(taken[0].addresses), data)
    b.free_mem(taken[0].addresses)


def test_a_target_that_fails_leaves_the_request_where_it_was(world):
    def refuse(received):
        b.free_mem(received.addresses)
        raise TransferError("a", "no room for its state")

    a, b = world.pair(on_received=refuse)
    taken = []
    c = world.pool("c", on_received=taken.append)
    own, data = a.filled(3)
    with pytest.raises(Refused):
        a.transfer("b", own, flags=MOVE)
    assert b.lacks_nothing(HBM)
    assert a.used(HBM) == (13, 3, 0)
    assert torch.equal(a.stored(own), data)
    a.transfer("c", own, flags=MOVE)
    assert torch.equal(c.stored(taken[0].addresses), data)
    c.free_mem(taken[0].addresses)
    assert a.lacks_nothing(HBM)


def test_a_target_that_dies_amid_the_move_leaves_it_too(world, slow_pair):
    a, b, slow = slow_pair
    taken = []
    c = world.pool("c", on_received=taken.append)
    own, data = a.filled(4)
    moving = a.start.transfer("b", own, flags=TransferFlags(move=True), timeout_s=60)
    assert slow.entered.wait(20)
    a._cluster.forget("b", None)
    with pytest.raises(PeerDied):
        moving.result(20)
    assert torch.equal(a.stored(own), data)
    a.transfer("c", own, flags=MOVE)
    assert torch.equal(c.stored(taken[0].addresses), data)
    assert a.lacks_nothing(HBM)
    slow.open.set()
    # If its last message was on its way, the KV lands: it is held for the source, until that is gone.
    until(lambda: b.counters()["incoming"] == 0)
    b._cluster.forget("a", None)
    assert b.lacks_nothing()
    c.free_mem(taken[0].addresses)
