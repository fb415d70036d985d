import numpy as np
import pytest

from mempool.address import Addresses, Medium, Owner
from mempool.errors import BadAddress


def test_a_match_is_the_longest_prefix_in_whole_blocks_and_in_order(harness):
    harness.insert("abcd", 7, 3, 9, 1)
    match = harness.match("abcX")
    assert (match.blocks, match.tokens) == (3, 12)
    assert match.addresses == [Addresses(harness.hbm, [7, 3, 9])]
    assert harness.index.match("", harness.tokens("ab")[:7]).blocks == 1
    assert harness.index.match("", harness.tokens("a")[:3]) == (0, 0, [], None)


def test_a_match_splits_nothing(harness):
    harness.insert("abcd", 7, 3, 9, 1)
    harness.match("ab")
    assert harness.index.nodes == 1


def test_a_tail_below_a_page_is_ignored(harness):
    harness.index.insert("", [*harness.tokens("a"), 5], [Addresses(harness.hbm, [4])])
    assert harness.found("a") == [("hbm", 4)]


def test_namespaces_do_not_see_each_other(harness):
    harness.insert("ab", 1, 2)
    harness.index.insert("other", harness.tokens("ab"), [Addresses(harness.hbm, [8, 9])])
    assert harness.found("ab") == [("hbm", 1), ("hbm", 2)]
    assert harness.index.match("third", harness.tokens("ab")).blocks == 0


def test_branches_share_their_head(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    inserted = harness.insert("abXY", 5, 6, 7, 8)
    assert inserted.returned == [Addresses(harness.hbm, [5, 6])]
    assert inserted.adopted == [Addresses(harness.hbm, [7, 8])]
    assert harness.found("abXY") == [("hbm", n) for n in (1, 2, 7, 8)]
    assert harness.found("abcd") == [("hbm", n) for n in (1, 2, 3, 4)]
    assert harness.index.nodes == 3


def test_inserting_again_returns_only_the_new_blocks(harness):
    harness.insert("abc", 1, 2, 3)
    assert harness.insert("abc", 4, 2, 6) == ([], [Addresses(harness.hbm, [4, 6])])
    assert harness.insert("abc", 1, 2, 3) == ([], [])
    assert harness.index.blocks_of(harness.hbm) == 3


def test_the_last_blocks_can_follow_a_head_that_is_indexed(harness):
    harness.insert("ab", 1, 2)
    assert harness.insert("abcd", 3, 4).adopted == [Addresses(harness.hbm, [3, 4])]
    assert harness.found("abcd") == [("hbm", n) for n in (1, 2, 3, 4)]


def test_a_missing_head_is_refused_with_the_number_of_its_missing_blocks(harness):
    harness.insert("ab", 1, 2)
    with pytest.raises(ValueError, match="2 blocks before the first of these 1 are not indexed"):
        harness.insert("abcde", 9)
    assert harness.index.blocks_of(harness.hbm) == 2


def test_more_blocks_than_the_tokens_have_are_refused(harness):
    with pytest.raises(ValueError, match="3 blocks given for tokens of 2 whole blocks"):
        harness.insert("ab", 1, 2, 3)


def test_another_owners_copy_of_a_part_is_kept_beside_the_first(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    assert harness.insert("abc", 8, 9, owner=harness.dram).adopted == [Addresses(harness.dram, [8, 9])]
    assert harness.index.blocks_of(harness.dram) == 2
    assert harness.index.evict(harness.hbm, 4) == 3
    assert harness.found("abcd") == [("hbm", 1), ("dram", 8), ("dram", 9)]


def test_one_insert_can_name_several_owners(harness):
    parts = [Addresses(harness.hbm, [1, 2]), Addresses(harness.dram, [1]), Addresses(harness.hbm, [3])]
    assert harness.index.insert("", harness.tokens("abcd"), parts).adopted == parts
    assert harness.match("abcd").addresses == parts


def test_the_preferred_owners_copy_is_named(make_harness):
    late = make_harness(prefer=[make_harness.dram])
    late.insert("ab", 1, 2)
    late.insert("ab", 8, 9, owner=late.dram)
    assert late.found("ab") == [("dram", 8), ("dram", 9)]


def test_a_block_is_published_once(harness):
    harness.insert("ab", 1, 2)
    with pytest.raises(BadAddress, match="block 2 is published already"):
        harness.insert("xy", 3, 2)
    with pytest.raises(BadAddress, match="block 2 is published already"):
        harness.insert("abc", 2, 1, 3)
    with pytest.raises(BadAddress, match="block 5 is named twice"):
        harness.insert("xyz", 5, 6, 5)
    with pytest.raises(BadAddress, match="block -1"):
        harness.insert("x", -1)
    assert harness.index.nodes == 1


def test_blocks_are_published_from_insert_to_eviction(harness):
    harness.insert("ab", 1, 2)
    for blocks, published in [([2, 1], True), ([1, 3], False), ([], True), ([10**6], False)]:
        assert harness.index.has_published(Addresses(harness.hbm, blocks)) is published
    assert not harness.index.has_published(Addresses(harness.dram, [1]))
    harness.index.evict(harness.hbm, 1)
    assert not harness.index.has_published(Addresses(harness.hbm, [2]))


def test_what_a_match_returns_may_be_written_to(harness):
    harness.insert("ab", 1, 2)
    harness.match("ab").addresses[0].blocks[:] = 0
    assert harness.found("ab") == [("hbm", 1), ("hbm", 2)]


def test_sixty_four_instances_can_hold_one_prefix(harness):
    owners = [Owner(f"i{n}", 1, Medium.DRAM) for n in range(64)]
    for n, owner in enumerate(owners):
        harness.index.insert("", harness.tokens("abcd")[: 16 - n % 2 * 8], [_row(owner, n, 4 - n % 2 * 2)])
    assert harness.index.nodes == 2
    for owner in owners[:-1]:
        assert harness.index.drop_owners(owner.instance) > 0
    assert harness.match("abcd").addresses == [_row(owners[-1], 63, 2)]


def _row(owner, first, count):
    return Addresses(owner, np.arange(first, first + count))
