from index_mirror import Mirror

from mempool.address import Addresses, Medium, Owner

OTHER = Owner("b", 1, Medium.DRAM)


def test_delete_takes_all_that_continues_and_leaves_what_others_share(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.insert("abcde", 5)
    harness.insert("abX", 6)
    assert harness.index.delete("", harness.tokens("abcd")) == 3
    assert harness.freed_blocks() == [3, 4, 5]
    assert harness.found("abcde") == [("hbm", 1), ("hbm", 2)]
    assert harness.index.delete("", harness.tokens("abX")) == 3
    assert harness.index.nodes == 0


def test_delete_in_the_middle_of_a_sequence_takes_all_of_it(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    assert harness.index.delete("", harness.tokens("ab")) == 4


def test_delete_of_what_is_not_there_takes_nothing(harness):
    harness.insert("abc", 1, 2, 3)
    assert harness.index.delete("", harness.tokens("abX")) == 0
    assert harness.index.delete("", harness.tokens("a")[:2]) == 0
    assert harness.index.delete("other", harness.tokens("abc")) == 0


def test_delete_takes_what_eviction_left_of_the_sequence(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.index.evict(harness.hbm, 2)
    assert harness.index.delete("", harness.tokens("abcd")) == 2


def test_the_least_recently_used_goes_first_and_of_a_sequence_the_tail(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.clock.now += 1
    harness.insert("xyz", 5, 6, 7)
    harness.clock.now += 1
    harness.match("abcd")
    assert harness.index.evict(harness.hbm, 2) == 2
    assert harness.freed_blocks() == [6, 7]
    assert harness.index.evict(harness.hbm, 2) == 2
    assert harness.freed_blocks() == [4, 5, 6, 7]
    assert harness.found("abcd") == [("hbm", 1), ("hbm", 2), ("hbm", 3)]


def test_a_use_keeps_the_prefix_too_once_its_tail_has_gone(harness):
    harness.insert("a", 1)
    harness.insert("ab", 2)
    harness.clock.now += 1
    harness.insert("x", 3)
    harness.clock.now += 1
    harness.match("ab")
    assert harness.index.evict(harness.hbm, 1) == 1
    assert harness.freed_blocks() == [3]


def test_eviction_never_leaves_what_cannot_be_reached(harness):
    harness.insert("a", 1)
    harness.insert("ab", 9, owner=harness.dram)
    assert harness.index.evict(harness.hbm, 5) == 0
    assert harness.index.evict(harness.dram, 5) == 1
    assert harness.index.evict(harness.hbm, 5) == 1


def test_eviction_drops_one_owners_copy_where_another_remains(harness):
    harness.insert("ab", 1, 2)
    harness.insert("ab", 8, 9, owner=harness.dram)
    harness.insert("abc", 7, owner=harness.dram)
    assert harness.index.evict(harness.hbm, 5) == 2
    assert harness.found("abc") == [("dram", 8), ("dram", 9), ("dram", 7)]
    assert harness.index.evict(OTHER, 5) == 0


def test_a_dead_instances_copies_go_and_what_only_they_made_reachable(harness):
    harness.insert("ab", 1, 2, owner=OTHER)
    harness.insert("abc", 3)
    harness.insert("x", 4)
    harness.insert("x", 5, owner=OTHER)
    assert harness.index.drop_owners("b") == 3
    assert harness.freed_blocks(OTHER) == [1, 2, 5]
    assert harness.freed_blocks() == [3]
    assert harness.found("x") == [("hbm", 4)]


def test_an_instances_present_incarnation_is_kept(harness):
    harness.insert("ab", 1, 2, owner=OTHER)
    harness.insert("xy", 1, 2, owner=OTHER._replace(incarnation=2))
    assert harness.index.drop_owners("b", keep_incarnation=2) == 2
    assert (harness.match("ab").blocks, harness.match("xy").blocks) == (0, 2)


def test_clear_empties_one_namespace_or_all(harness):
    harness.insert("ab", 1, 2)
    harness.index.insert("other", harness.tokens("ab"), [Addresses(harness.hbm, [3, 4])])
    harness.index.clear("other")
    assert harness.freed_blocks() == [3, 4]
    harness.index.clear()
    assert harness.freed_blocks() == [1, 2, 3, 4]
    assert harness.index.nodes == harness.index.blocks_of(harness.hbm) == 0


def test_what_was_deleted_does_not_pile_up_in_the_queues(harness):
    for _ in range(2500):
        harness.insert("ab", 1, 2)
        harness.index.delete("", harness.tokens("ab"))
    (queue,) = harness.index._state.queues.values()
    assert len(queue._heap) < 2000


def test_an_empty_namespace_leaves_nothing_behind(harness):
    for n in range(10):
        harness.index.insert(f"salt {n}", harness.tokens("a"), [Addresses(harness.hbm, [n])])
    harness.index.evict(harness.hbm, 10)
    assert harness.index._tree.roots == {}


def test_discarded_blocks_go_in_any_order(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.insert("abX", 5)
    mirror = Mirror(4)
    mirror.apply(harness.index.snapshot())
    assert harness.index.discard(Addresses(harness.hbm, [4, 5, 77, 3])) == 3
    assert harness.freed_blocks() == [3, 4, 5]
    assert harness.found("abcd") == [("hbm", 1), ("hbm", 2)]
    assert harness.index.discard(Addresses(OTHER, [1])) == 0
    for event in harness.index.events_since(0):
        mirror.apply(event)
    assert sum(node.blocks for node in mirror.tree.below(mirror.tree.roots[""])) == 2


def test_a_sequence_and_what_hangs_on_it_are_given_up_at_once(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.insert("abX", 5)
    assert harness.index.discard(Addresses(harness.hbm, [2, 4, 5, 1, 3])) == 5
    assert harness.index.nodes == 0


def test_a_block_that_is_given_up_takes_all_that_hangs_on_it_alone(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    harness.insert("abX", 5)
    harness.insert("ab", 8, 9, owner=harness.dram)
    assert harness.index.discard(Addresses(harness.hbm, [2])) == 1
    assert harness.found("abcd") == [("hbm", 1), ("dram", 9), ("hbm", 3), ("hbm", 4)]
    assert harness.index.discard(Addresses(harness.dram, [9])) == 1
    assert harness.freed_blocks() == [2, 3, 4, 5]
    assert harness.found("abcd") == [("hbm", 1)]
