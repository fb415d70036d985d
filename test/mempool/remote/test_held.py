"""Blocks that are held for others, by a clock that the test turns."""

import pytest
from manual_clock import Clock

from mempool.address import Medium, Owner
from mempool.config import PeerQuota
from mempool.errors import OutOfBlocks, Refused
from mempool.remote.held import HeldBlocks
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import Caller

DRAM, HBM = Medium.DRAM, Medium.HBM
A, A2, B = Caller("a", 1), Caller("a", 2), Caller("b", 1)
OWNER = Owner("here", 1, DRAM)


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def ledger():
    quota = PeerQuota(share_each=0.5, share=0.8, transfers_each=2, transfers=3, lease_s=60)
    return PeerLedger(quota, lambda medium: 10)


@pytest.fixture
def held(ledger, clock):
    return HeldBlocks(ledger, clock)


def test_blocks_are_held_for_the_caller_that_has_them_alone(held):
    held.add(A, DRAM, [1, 2])
    held.add(B, DRAM, [3])
    assert held.are_held(A, DRAM, [2, 1])
    assert held.are_held(A, DRAM, [])
    for caller, medium, blocks in [(A, DRAM, [1, 3]), (A, HBM, [1]), (A2, DRAM, [1]), (A, DRAM, [9])]:
        assert not held.are_held(caller, medium, blocks)


def test_what_was_not_used_for_a_lease_is_taken_back_and_the_rest_is_not(held, clock):
    held.add(A, DRAM, [1, 2, 3])
    held.add(A, HBM, [1])
    clock.now += 50
    held.remove(DRAM, [2])
    clock.now += 20
    assert held.take_overdue() == [(HBM, [1])]
    assert held.are_held(A, DRAM, [1, 3])
    clock.now += 50
    assert held.take_overdue() == [(DRAM, [1, 3])]
    assert (len(held), held.take_overdue()) == (0, [])


def test_what_an_incarnation_held_goes_with_it(held, ledger):
    held.add(A, DRAM, [1])
    held.add(A2, DRAM, [2])
    held.add(B, DRAM, [3])
    assert held.take_of(lambda caller: caller == A) == [(DRAM, [1])]
    assert held.take_of(lambda caller: True) == [(DRAM, [2]), (DRAM, [3])]
    assert ledger.instances == 0


def test_each_has_its_share_and_all_together_theirs(held, ledger):
    held.add(A, DRAM, range(3))
    held.add(A2, DRAM, [4])
    ledger.require_blocks("a", OWNER, 1)
    with pytest.raises(OutOfBlocks, match=r"2 blocks asked; of 10, 4 are kept for a.*50% each and 80%"):
        ledger.require_blocks("a", OWNER, 2)
    ledger.require_blocks("a", OWNER._replace(medium=HBM), 5)
    ledger.require_blocks("b", OWNER, 4)
    with pytest.raises(OutOfBlocks, match="5 blocks asked; of 10, 0 are kept for b, 4 for all: "):
        ledger.require_blocks("b", OWNER, 5)
    assert ledger.refusals == 2
    held.remove(DRAM, [0])
    ledger.require_blocks("a", OWNER, 2)


def test_transfers_are_bounded_for_each_and_in_all(ledger):
    for name in "aab":
        ledger.require_transfer(name)
        ledger.begin_transfer(name)
    with pytest.raises(Refused, match="2 transfers with it are under way, 3 with all others"):
        ledger.require_transfer("a")
    with pytest.raises(Refused, match="there may be 2 and 3"):
        ledger.require_transfer("c")
    ledger.end_transfer("a")
    ledger.require_transfer("c")


@pytest.mark.parametrize(
    "settings",
    [
        {"share_each": 0},
        {"share_each": 0.95},
        {"share": 1.1},
        {"share": float("nan")},
        {"transfers_each": 0},
        {"transfers": 10},
        {"lease_s": 0},
        {"lease_s": float("inf")},
    ],
    ids=str,
)
def test_quotas_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="not "):
        PeerQuota(**settings)
