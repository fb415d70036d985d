"""A tree of many indexes, fed by their events, has of each what that has itself."""

import random
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mempool.address import Addresses, Medium, Owner
from mempool.errors import FrameError
from mempool.index.events import AnyEvent, Cleared, Copied, EventGap, Moved, Removed, Snapshot, Stored
from mempool.index.index import Index
from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.prefix_tree import EventTree, TreeFull
from router.prompt.request import namespace_of, routing_request

HBM, DRAM = Medium.HBM, Medium.DRAM
NOBODY, SALTED = "[null,null]", '[null,"salt"]'


@pytest.fixture
def tree(clock):
    return EventTree(600, 5, 1 << 20, clock)


def new_instance(number, page):
    made = Instance(f"http://{number}:1", Role.COLOCATED)
    made.learn(ServerInfo(page_size=page))
    made.up()
    return made


def tokens(*pieces):
    return np.array([token for piece in pieces for token in piece], dtype=np.int32)


class Source:
    """One medium of an instance: a real index, of owners in both media, and its part of a tree."""

    def __init__(self, tree, instance, medium, page):
        self.tree, self.instance, self.medium, self.page = tree, instance, medium, page
        self.owners = [Owner(instance.url, 1, HBM), Owner(instance.url, 1, DRAM), Owner("other", 2, DRAM)]
        self.index = Index(page, on_freed=lambda _: None)
        self.blocks = 0
        self.subscribe()

    def new(self, owner, count):
        self.blocks += count
        return Addresses(owner, range(self.blocks - count, self.blocks))

    def insert(self, prompt, namespace=NOBODY, owner=None):
        known = self.index.match(namespace, prompt).blocks
        more = len(prompt) // self.page - known
        self.index.insert(namespace, prompt, [self.new(owner or self.owners[0], more)])

    def subscribe(self):
        snapshot = on_the_wire(self.index.snapshot(), Snapshot)
        self.mirror = self.tree.mirrors.open(self.instance, self.medium, snapshot.page_size)
        drain(self.tree.mirrors.load(self.mirror, snapshot.stored, snapshot.seq))
        drain(self.tree.mirrors.sweep())

    def catch_up(self):
        for event in on_the_wire(self.index.events_since(self.mirror.seq), list[AnyEvent]):
            drain(self.tree.mirrors.apply(self.mirror, event))

    def has(self, namespace, prompt):
        return self.index.match(namespace, prompt[:-1]).tokens


def drain(steps):
    for _ in steps:
        pass


def on_the_wire(what, kind):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(what), type=kind)


def check(mirrors):
    """What holds of the tree at any time. Returns its nodes."""
    radix, nodes, counted = mirrors._radix, 0, 0
    ahead = [child for root in radix.roots.values() for child in root.children.values()]
    while ahead:
        node = ahead.pop()
        nodes, counted = nodes + 1, counted + len(node.key) // 4
        assert node.held
        below = list(node.children.values())
        for index, value in node.held.items():
            assert value & 0xFFFFFFFF == sum(index in child.held for child in below)
        for child in below:
            assert child.held.keys() <= node.held.keys()
            assert child.parent is node
        ahead += below
    assert (radix.nodes, radix.tokens) == (nodes, counted)
    indexes = {*mirrors._indexes.values(), *mirrors._ended}
    assert radix.runs == sum(len(index.runs) for index in indexes)
    return nodes


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_equals_the_indexes_at_every_step(tree, seed):
    rng = random.Random(seed)
    pages = (1, 4, 16, 16)
    sources = [
        Source(tree, instance, medium, page)
        for instance, page in [(new_instance(n, page), page) for n, page in enumerate(pages)]
        for medium in (HBM, DRAM)
    ]
    for _ in range(300):
        change(rng, rng.choice(sources))
        for source in sources:
            source.catch_up()
        namespace, prompt = rng.choice((NOBODY, SALTED)), some_prompt(rng)
        assert tree.match(prompt, as_router(namespace)) == expected(sources, namespace, prompt)
        check(tree.mirrors)
    for source in sources:
        tree.mirrors.close(source.instance, source.medium)
    drain(tree.mirrors.sweep())
    assert check(tree.mirrors) == 0
    assert tree.mirrors.sizes() == {"tokens": 0, "nodes": 0, "runs": 0}


def as_router(namespace):
    return namespace_of({"cache_salt": msgspec.json.decode(namespace)[1]})


def expected(sources, namespace, prompt):
    found = {}
    for source in sources:
        has = found.setdefault(source.instance, {})
        has[source.medium] = source.has(namespace, prompt)
    return {
        instance: (max(has.values()), has.get(HBM, 0))
        for instance, has in found.items()
        if max(has.values(), default=0)
    }


def some_prompt(rng):
    """Of few letters, which repeat: so prompts begin alike, and part within pages."""
    opening = [1] * rng.choice((0, 5, 16, 40))
    return tokens(opening, [rng.randrange(2) for _ in range(rng.randrange(1, 60))])


def change(rng, source):
    index, owner = source.index, rng.choice(source.owners)
    namespace = rng.choice((NOBODY, SALTED))
    match rng.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            source.insert(some_prompt(rng), namespace, owner)
        case 5:
            prompt = some_prompt(rng)
            index.insert(namespace, prompt, [source.new(owner, len(prompt) // source.page)])
        case 6 | 7:
            index.evict(owner, rng.randrange(1, 6))
        case 8 | 9:
            swap = index.replace if rng.random() < 0.7 else index.add_copy
            for victim in index.victims(owner, rng.randrange(1, 6)):
                swap(victim, source.new(rng.choice(source.owners), len(victim.addresses)))
        case 10:
            index.delete(namespace, some_prompt(rng)[:20])
        case 11 if rng.random() < 0.3:
            index.clear(rng.choice((None, namespace)))
        case 11:
            source.subscribe()


def test_the_longer_of_both_media_counts_and_hbm_is_kept_apart(tree):
    a, b = new_instance(1, 4), new_instance(2, 4)
    for instance, hbm, dram in ((a, 8, 20), (b, 20, 8)):
        for medium, size in ((HBM, hbm), (DRAM, dram)):
            source = Source(tree, instance, medium, 4)
            source.insert(tokens(range(size)))
            source.catch_up()
    assert tree.match(tokens(range(100)), "") == {a: (20, 8), b: (20, 20)}
    assert tree.match(tokens(range(20)), "") == {a: (16, 8), b: (16, 16)}


@pytest.mark.parametrize("end", ["down", "forgot", "close"])
def test_what_an_instance_lost_is_gone_at_once_and_its_memory_in_steps(tree, end):
    a, b = Source(tree, new_instance(1, 4), HBM, 4), Source(tree, new_instance(2, 4), HBM, 4)
    for source in (a, b):
        for n in range(20):
            source.insert(tokens(range(40), [n] * 40))
        source.catch_up()
    close = lambda: tree.mirrors.close(a.instance, HBM)  # noqa: E731
    {"down": lambda: a.instance.down("gone"), "forgot": a.instance.bump_cache_epoch, "close": close}[end]()
    assert tree.match(tokens(range(40), [3] * 41), "") == {b.instance: (80, 80)}
    assert not tree.mirrors.follows(a.instance)
    close()
    steps = list(tree.mirrors.sweep())
    assert len(steps) >= 20
    assert check(tree.mirrors) == 21
    a.subscribe()
    assert tree.match(tokens(range(40), [3] * 41), "") == {a.instance: (80, 80), b.instance: (80, 80)}


def test_a_prediction_counts_until_its_events_must_be_here(tree, clock):
    source = Source(tree, new_instance(1, 4), HBM, 4)
    source.insert(tokens(range(40)))
    source.catch_up()
    tree.stored(source.instance, tokens(range(80)), "")
    assert tree.match(tokens(range(100)), "") == {source.instance: (80, 80)}
    clock.now += 6
    assert tree.match(tokens(range(100)), "") == {source.instance: (40, 40)}
    tree.stored(source.instance, tokens(range(20)), "")
    assert tree.match(tokens(range(100)), "") == {source.instance: (40, 40)}


def test_an_instance_without_a_feed_is_known_by_its_answers(tree, clock):
    a, source = new_instance(1, 4), Source(tree, new_instance(2, 4), DRAM, 4)
    source.insert(tokens(range(60)))
    source.catch_up()
    for instance in (a, source.instance):
        tree.stored(instance, tokens(range(80)), "")
    clock.now += 500
    assert tree.match(tokens(range(100)), "") == {a: (80, 80), source.instance: (80, 80)}
    clock.now += 200
    assert tree.match(tokens(range(100)), "") == {source.instance: (60, 0)}


@pytest.mark.parametrize(
    ("aged", "busy"), [("inferred_tokens", "followed"), ("predicted_tokens", "not followed")]
)
def test_answers_of_one_kind_expire_while_only_the_other_kind_comes(tree, clock, aged, busy):
    followed, other = Source(tree, new_instance(1, 4), HBM, 4).instance, new_instance(2, 4)
    first, second = (other, followed) if busy == "followed" else (followed, other)
    tree.stored(first, tokens(range(80)), "")
    assert tree.sizes()[aged] == 80
    clock.now += 601
    tree.stored(second, tokens(range(40)), "")
    assert tree.sizes()[aged] == 0


def test_answers_from_before_it_was_followed_do_not_count_when_it_is(tree):
    a = new_instance(1, 4)
    tree.stored(a, tokens(range(80)), "")
    source = Source(tree, a, HBM, 4)
    assert tree.match(tokens(range(100)), "") == {}
    source.insert(tokens(range(40)))
    source.catch_up()
    assert tree.match(tokens(range(100)), "") == {a: (40, 40)}


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({}, (None, None)),
        ({"extra_key": "", "cache_salt": None}, (None, None)),
        ({"extra_key": 'k"é'}, ('k"é', None)),
        ({"extra_key": "k", "cache_salt": "s"}, ("k", "s")),
        ({"cache_salt": "s", "model": "base"}, (None, "s")),
        ({"lora_path": "adapter"}, None),
        ({"model": "base:adapter", "extra_key": "k"}, None),
        ({"extra_key": "\ud800"}, None),
    ],
)
def test_a_prompts_key_is_looked_for_as_instances_report_it(tree, fields, reported):
    source = Source(tree, new_instance(1, 1), HBM, 1)
    everywhere = [(None, None), ("k", None), ("k", "s"), (None, "s"), ('k"é', None), ("kadapter", None)]
    for name in everywhere:
        source.insert(tokens(range(10)), msgspec.json.encode(name).decode())
    source.catch_up()
    found = tree.match(tokens(range(20)), namespace_of(fields))
    assert found == ({source.instance: (10, 10)} if reported in everywhere else {})
    tree.stored(source.instance, tokens(range(15)), namespace_of(fields))
    assert tree.match(tokens(range(20)), namespace_of(fields)) == {source.instance: (15, 15)}


@pytest.fixture
def good(tree):
    """Run 0 of blocks ab, and below a run 1 of c."""
    made = SimpleNamespace(tree=tree, source=Source(tree, new_instance(1, 4), HBM, 4))
    made.owner = made.source.owners[0]
    made.other = Source(tree, new_instance(2, 4), HBM, 4)
    for source in (made.source, made.other):
        source.insert(tokens([1, 1, 1, 1, 2, 2, 2, 2]))
        source.insert(tokens([1, 1, 1, 1, 2, 2, 3, 3]))
        source.catch_up()
    return made


def stored(owner, **changes):
    event = {"seq": 3, "namespace": NOBODY, "run": 2, "first": 0, "parent_run": -1, "parent_block": -1}
    return Stored(**(event | {"tokens": b"\7\0\0\0" * 4, "copies": [(owner, b"\0" * 4)]} | changes))


@pytest.mark.parametrize(
    "make",
    [
        lambda owner: Removed(seq=3, run=7, first=0, count=1, owner=owner),
        lambda owner: Removed(seq=3, run=0, first=0, count=3, owner=owner),
        lambda owner: Removed(seq=3, run=0, first=0, count=0, owner=owner),
        lambda owner: Removed(seq=3, run=0, first=0, count=1, owner=owner),
        lambda owner: Removed(seq=3, run=0, first=0, count=2, owner=owner),
        lambda owner: Removed(seq=3, run=1, first=0, count=1, owner=owner._replace(incarnation=9)),
        lambda owner: Copied(seq=3, run=0, first=0, owner=owner, blocks=b"\0" * 4),
        lambda owner: Copied(seq=3, run=0, first=0, owner=owner._replace(instance="x"), blocks=b"\0" * 12),
        lambda owner: Moved(seq=3, run=0, first=0, source=owner, target=owner, blocks=b"\0" * 8),
        lambda owner: Moved(seq=3, run=0, first=0, source=owner, target=owner, blocks=b"\0" * 3),
        lambda owner: stored(owner, run=0),
        lambda owner: stored(owner, first=4),
        lambda owner: stored(owner, parent_run=5, parent_block=0),
        lambda owner: stored(owner, parent_run=0, parent_block=2),
        lambda owner: stored(owner, parent_run=0, parent_block=-1),
        lambda owner: stored(owner, run=0, parent_run=0, parent_block=0, first=1),
        lambda owner: stored(owner, run=0, parent_run=0, parent_block=1, first=1),
        lambda owner: stored(owner, tokens=b"\1\0\0\0" * 4),
        lambda owner: stored(owner, parent_run=0, parent_block=0, tokens=b"\2\0\0\0" * 4),
        lambda owner: stored(owner, tokens=b"\7\0\0\0" * 4 + b"\0"),
        lambda owner: stored(owner, tokens=b""),
        lambda owner: stored(owner, copies=[]),
        lambda owner: stored(owner, copies=[(owner, b"\0" * 8)]),
        lambda owner: stored(owner, copies=[(owner, b"\0" * 4)] * 2),
        lambda owner: stored(owner, copies=[(owner._replace(incarnation=n), b"\0" * 4) for n in range(65)]),
    ],
)
def test_an_event_that_cannot_be_true_is_refused_and_hurts_nothing_else(good, make):
    mirrors, mirror = good.tree.mirrors, good.source.mirror
    with pytest.raises(FrameError):
        drain(mirrors.apply(mirror, make(good.owner)))
    assert not mirrors.follows(good.source.instance)
    with pytest.raises(EventGap, match="a snapshot first"):
        drain(mirrors.apply(mirror, Cleared(seq=4, namespace=None)))
    check(mirrors)
    good.source.subscribe()
    check(mirrors)
    prompt = tokens([1, 1, 1, 1, 2, 2, 3, 3, 9])
    assert good.tree.match(prompt, "") == {good.source.instance: (8, 8), good.other.instance: (8, 8)}


def test_a_gap_is_reported_with_the_event_that_was_expected(good):
    with pytest.raises(EventGap, match="event 3 was expected, event 5 came"):
        drain(good.tree.mirrors.apply(good.source.mirror, Cleared(seq=5, namespace=None)))


@pytest.mark.parametrize("page", [0, -1, 1 << 17])
def test_impossible_page_sizes_are_refused(tree, page):
    with pytest.raises(FrameError, match=f"pages of {page} tokens"):
        tree.mirrors.open(new_instance(1, 4), HBM, page)


def test_a_tree_that_is_full_takes_no_more(clock):
    tree = EventTree(600, 5, 100, clock)
    source = Source(tree, new_instance(1, 4), HBM, 4)
    source.insert(tokens(range(80)))
    source.catch_up()
    source.insert(tokens(range(100, 140)))
    with pytest.raises(TreeFull, match="--max-tree-size"):
        source.catch_up()
    assert check(tree.mirrors) == 1


def test_namespaces_fill_the_tree_as_tokens_do(clock):
    tree = EventTree(600, 5, 10_000, clock)
    source = Source(tree, new_instance(1, 4), HBM, 4)
    kept = []

    def fill():
        for number in range(100):
            source.insert(tokens(range(4)), namespace=f'["{number}{200 * "s"}",null]')
            source.catch_up()
            kept.append(number)

    with pytest.raises(TreeFull, match="--max-tree-size"):
        fill()
    assert len(kept) < 25


def test_instances_share_the_nodes_of_equal_prompts(tree):
    sources = [Source(tree, new_instance(n, 16), HBM, 16) for n in range(8)]
    for source in sources:
        source.insert(tokens(range(1600)))
        source.catch_up()
    assert tree.sizes()["tokens"] == 1600
    assert tree.sizes()["nodes"] == 1


def test_texts_count_as_answers_of_instances_without_events(tree, clock):
    instance = new_instance(1, 1)
    Source(tree, instance, HBM, 1).catch_up()
    assert tree.mirrors.follows(instance)
    by_text = routing_request({}, 100, text=tokens(range(10))).prefix
    by_tokens = routing_request({}, 100, tokens=tokens(range(10))).prefix
    tree.stored(instance, *by_text)
    tree.stored(instance, *by_tokens)
    clock.now += 10
    assert tree.match(*by_text) == {instance: (9, 9)}
    assert tree.match(*by_tokens) == {}
    clock.now += 600
    assert tree.match(*by_text) == {}
