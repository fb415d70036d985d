"""What the machine has found, or finds too seldom, each by itself."""

import pytest

from mempool.address import Addresses, Medium
from mempool.errors import BadAddress, LeaseExpired, Refused, StaleAddress
from mempool.membership.messages import new_incarnation

HBM, DRAM = Medium.HBM, Medium.DRAM


@pytest.fixture
def pair(make_sides):
    """Two sides that know each other."""
    start = make_sides()
    a, b = start("a"), start("b")
    a.pool.introduce(b.pool.info)
    b.pool.introduce(a.pool.info)
    yield a, b
    for side in (a, b):
        side.gate.set()
        side.pool.close()


def test_hbm_gives_way_where_dram_is_full_and_holds_what_hangs_on_it(pair, model):
    a, _ = pair
    a.pool.alloc_mem(9, DRAM)
    head, tail = a.pool.alloc_mem(5, HBM), a.pool.alloc_mem(1, DRAM)
    a.pool.insert(model.tokens_of("xxxxxx"), [head, tail])
    assert len(a.pool.alloc_mem(12, HBM)) == 12
    assert a.pool.match(model.tokens_of("xxxxxx")).blocks == 0


def test_a_lease_of_before_a_fence_is_no_more_and_ends_without_harm(pair, model):
    a, _ = pair
    a.pool.insert(model.tokens_of("xy"), a.pool.alloc_mem(2, HBM))
    matched = a.pool.match(model.tokens_of("xy"))
    a.pool.delete(model.tokens_of("xy"))
    a.pool._cluster.fenced(a.pool.info.incarnation, new_incarnation())
    with pytest.raises(LeaseExpired, match="has a new incarnation"):
        matched.check()
    with pytest.raises(LeaseExpired):
        matched.renew(1.0)
    matched.release()
    with pytest.raises(StaleAddress):
        a.pool.free_mem(matched.addresses)
    assert a.pool.counts(HBM).free == a.pool.counts(HBM).total


def test_targets_of_a_running_transfer_cannot_be_freed_or_reused(pair, model):
    a, b = pair
    source, target = a.pool.alloc_mem(2, DRAM), a.pool.alloc_mem(2, DRAM, "b")
    b.gate.clear()
    landing = a.pool.start.transfer("b", source, target)
    model.until(lambda: b.pool.counters()["incoming"] == 1, "it is admitted")
    with pytest.raises(BadAddress, match="not held"):
        a.pool.free_mem(target)
    with pytest.raises(BadAddress, match="not held"):
        a.pool.transfer("b", source, target)
    b.gate.set()
    assert landing.result(10).addresses == target
    a.pool.free_mem(target)
    assert b.pool.counts(DRAM).free == b.pool.counts(DRAM).total


def test_blocks_named_for_a_transfer_that_fails_are_held_again(pair, model):
    a, b = pair
    a.pool.insert(model.tokens_of("xy"), a.pool.alloc_mem(2, DRAM))
    b.pool.insert(model.tokens_of("x"), b.pool.alloc_mem(1, DRAM))
    target = a.pool.alloc_mem(1, DRAM, "b")
    b.gate.clear()
    with a.pool.match(model.tokens_of("xy")) as matched:
        landing = a.pool.start.transfer_with_insert(
            "b", model.tokens_of("xy"), matched.addresses[0][1:], target
        )
        model.until(lambda: b.pool.counters()["incoming"] == 1, "it is admitted")
        b.pool.delete(model.tokens_of("x"))
        b.gate.set()
        with pytest.raises(Refused, match="before the first"):
            landing.result(10)
    assert b.pool.counters()["held_blocks"] == 1
    a.pool.free_mem(target)
    assert b.pool.counts(DRAM).free == b.pool.counts(DRAM).total


@pytest.mark.parametrize("becomes", ["freed", "deleted under a lease"])
def test_a_move_ends_whatever_became_of_its_source_meanwhile(pair, model, becomes):
    a, b = pair
    source = a.pool.alloc_mem(2, DRAM)
    b.gate.clear()
    if becomes == "freed":
        moving = a.pool.start.transfer("b", source, None, model.move)
        model.until(lambda: b.pool.counters()["incoming"] == 1, "it is admitted")
        a.pool.free_mem(source)
    else:
        a.pool.insert(model.tokens_of("xy"), source)
        a.pool.match(model.tokens_of("xy"))
        moving = a.pool.start.transfer("b", source, None, model.move)
        a.pool.delete(model.tokens_of("xy"))
    assert a.pool.counts(DRAM).free == a.pool.counts(DRAM).total - 2
    b.gate.set()
    assert len(moving.result(10).addresses) == 2
    kept = 0 if becomes == "freed" else 2
    model.until(lambda: a.pool.counts(DRAM).free == a.pool.counts(DRAM).total - kept, "its blocks are free")


def test_a_stale_address_reaches_no_block_of_the_next_incarnation(pair, model):
    a, b = pair
    source, old = a.pool.alloc_mem(1, DRAM), a.pool.alloc_mem(1, DRAM, "b")
    b.pool._cluster.fenced(b.pool.info.incarnation, new_incarnation())
    # It has not heard of the fence, and asks with what it had.
    new = a.pool.alloc_mem(1, DRAM, "b")
    assert new.blocks.tolist() == old.blocks.tolist()
    for stale in (lambda: a.pool.free_mem(old), lambda: a.pool.transfer("b", source, old)):
        with pytest.raises(StaleAddress):
            stale()
    a.pool.introduce(b.pool.info)
    with pytest.raises(StaleAddress):
        a.pool.free_mem(Addresses(old.owner, new.blocks))
    assert b.pool.counters()["held_blocks"] == 1


def test_a_move_unpublishes_all_of_a_sequence_that_lies_in_parts(pair, model):
    a, b = pair
    tokens = model.tokens_of("xyxy")
    a.pool.insert(tokens[:4], a.pool.alloc_mem(2, HBM))
    a.pool.insert(tokens[:6], a.pool.alloc_mem(1, HBM))
    a.pool.insert(tokens, a.pool.alloc_mem(1, DRAM))
    source = a.pool.match(tokens, lease_s=None).addresses
    assert len(a.pool.transfer_with_insert("b", tokens, source, None, model.move).addresses) == 4
    assert a.published() == {}
    assert b.known("", "xyxy") == 4


def test_blocks_named_for_what_is_published_already_are_free_afterwards(pair, model):
    a, b = pair
    tokens = model.tokens_of("xy")
    a.pool.insert(tokens, a.pool.alloc_mem(2, DRAM))
    b.pool.insert(tokens, b.pool.alloc_mem(2, DRAM))
    target = a.pool.alloc_mem(2, DRAM, "b")
    with a.pool.match(tokens) as matched:
        a.pool.transfer_with_insert("b", tokens, matched.addresses, target)
    assert b.pool.counters()["held_blocks"] == 0
    assert b.pool.counts(DRAM)[:3] == (8, 0, 2)
