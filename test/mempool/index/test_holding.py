import pytest

from mempool.address import Addresses
from mempool.errors import BadAddress


def test_victims_are_the_tail_of_the_oldest_and_stay_published(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.clock.now += 1
    harness.insert("xy", 5, 6)
    victims = harness.index.victims(harness.hbm, 3)
    assert [v.addresses for v in victims] == [Addresses(harness.hbm, [2, 3, 4])]
    assert harness.index.blocks_of(harness.hbm) == 6
    assert harness.freed == []


def test_victims_reach_past_tails_that_moved_already(harness):
    harness.insert("a", 1)
    harness.insert("ab", 2)
    (tail,) = harness.index.victims(harness.hbm, 1)
    assert harness.index.replace(tail, Addresses(harness.dram, [9]))
    assert harness.index.evict(harness.hbm, 1) == 0
    assert [v.addresses for v in harness.index.victims(harness.hbm, 5)] == [Addresses(harness.hbm, [1])]


def test_replace_swaps_the_copy_and_frees_the_old_one(harness):
    harness.insert("abc", 1, 2, 3)
    (victim,) = harness.index.victims(harness.hbm, 2)
    assert harness.index.replace(victim, Addresses(harness.dram, [8, 9]))
    assert harness.found("abc") == [("hbm", 1), ("dram", 8), ("dram", 9)]
    assert harness.freed == [Addresses(harness.hbm, [2, 3])]
    assert not harness.index.replace(victim, Addresses(harness.dram, [5, 6]))


def test_replace_with_nothing_drops_a_leaf_or_a_second_copy_only(harness):
    harness.insert("a", 1)
    harness.insert("ab", 2)
    head, tail = harness.index.holdings(Addresses(harness.hbm, [1, 2]))
    assert (head.copies, tail.copies) == (1, 1)
    assert not harness.index.replace(head, None)
    assert harness.index.replace(tail, None)
    assert harness.index.replace(head, None)
    assert harness.freed_blocks() == [1, 2]


@pytest.mark.parametrize("meanwhile", ["lease", "evict", "split", "delete", "copied"])
def test_a_stale_holding_changes_nothing(harness, meanwhile):
    harness.insert("abc", 1, 2, 3)
    (holding,) = harness.index.holdings(Addresses(harness.hbm, [1, 2, 3]))
    {
        "lease": lambda: harness.match("a", lease_s=5),
        "evict": lambda: harness.index.evict(harness.hbm, 1),
        "split": lambda: harness.insert("abX", 7),
        "delete": lambda: harness.index.delete("", harness.tokens("abc")),
        "copied": lambda: harness.insert("abc", 4, 5, 6, owner=harness.dram),
    }[meanwhile]()
    before = harness.found("abc"), harness.freed_blocks()
    assert not harness.index.replace(holding, Addresses(harness.dram, [7, 8, 9]))
    assert (harness.found("abc"), harness.freed_blocks()) == before


def test_victims_are_never_leased(harness):
    harness.insert("ab", 1, 2)
    lease = harness.match("ab", lease_s=5).lease
    assert harness.index.victims(harness.hbm, 2) == []
    lease.release()
    assert len(harness.index.victims(harness.hbm, 2)) == 1


def test_holdings_put_together_are_the_addresses_in_their_order(harness):
    harness.insert("abcdef", 10, 11, 12, 13, 14, 15)
    harness.insert("abX", 20)
    asked = Addresses(harness.hbm, [14, 15, 20, 11, 12, 10])
    found = harness.index.holdings(asked)
    assert [block for part in found for block in part.addresses.blocks] == asked.blocks.tolist()
    assert all(part.current for part in found)


def test_an_address_that_is_not_published_is_refused(harness):
    harness.insert("ab", 1, 2)
    for blocks, cause in [([1, 7], "block 7 is not"), ([2, 2], "twice"), ([10**6], "block 1000000 is not")]:
        with pytest.raises(BadAddress, match=cause):
            harness.index.holdings(Addresses(harness.hbm, blocks))
    with pytest.raises(BadAddress, match="none of its blocks"):
        harness.index.holdings(Addresses(harness.dram, [1]))
    assert harness.index.holdings(Addresses(harness.hbm, [])) == []


def test_a_copy_can_be_added_even_under_a_lease(harness):
    harness.insert("ab", 1, 2, owner=harness.dram)
    lease = harness.match("ab", lease_s=5).lease
    (holding,) = harness.index.holdings(Addresses(harness.dram, [1, 2]))
    assert harness.index.add_copy(holding, Addresses(harness.hbm, [8, 9]))
    assert not harness.index.add_copy(holding, Addresses(harness.hbm, [6, 7]))
    lease.release()
    assert harness.index.evict(harness.dram, 2) == 2
    assert harness.found("ab") == [("hbm", 8), ("hbm", 9)]


def test_new_blocks_that_do_not_fit_are_refused(harness):
    harness.insert("ab", 1, 2)
    harness.insert("x", 5, owner=harness.dram)
    (holding,) = harness.index.holdings(Addresses(harness.hbm, [1, 2]))
    with pytest.raises(ValueError, match="1 blocks given for 2"):
        harness.index.replace(holding, Addresses(harness.dram, [9]))
    with pytest.raises(BadAddress, match="block 5 is published already"):
        harness.index.replace(holding, Addresses(harness.dram, [9, 5]))
    assert holding.current
