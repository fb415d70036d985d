"""What followers hear of SGLang's real trees is what these have."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import zmq
from index_mirror import Mirror
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams

from mempool.address import Medium, Owner
from mempool.feed.messages import FeedRequest, SnapshotReply, Unknown, decode_reply, encode
from mempool.index.events import Cleared, Removed, Stored
from mempool.index.keys import key_of as mempool_key
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.hooks.scheduler_state import SchedulerState
from sglang_memserve.hooks.server import advertise

PAGE = 4
PLAIN, SALTED, LORA = Namespace(None, None), Namespace(None, "tenant"), Namespace("lora", None)
TOKENS = list(range(1, 25))


class FeedClient:
    """A mirror of what an instance's tree has in HBM, by the feed alone."""

    def __init__(self, instance):
        self.feed, self.mirror = instance.agent._hbm_index.feed, Mirror(PAGE)
        self.incarnation, snapshot = self.feed.snapshot()
        self.mirror.apply(snapshot)

    def hear(self):
        events = self.feed.events_after(self.incarnation, self.mirror.seq)
        for event in events:
            self.mirror.apply(event)
        return events

    def has(self, tokens, namespace=PLAIN):
        """The pages of the longest prefix that it knows of."""
        path, blocks = self.mirror.tree.walk(namespace.name, mempool_key(tokens))
        numbers = [np.frombuffer(copy, np.int32) for node in path for copy in node.copies.values()]
        return np.concatenate(numbers)[:blocks].tolist() if path else []


class Driven:
    """An instance at which requests and evictions happen at random; `seen`: all prompts so far."""

    def __init__(self, instance, tools, seed):
        self.instance, self.tools, self.random = instance, tools, random.Random(seed)
        self.seen = []

    def act(self):
        does = self.random.choices([self.compute, self.compute_twice, self.evict, self.ask, self.flush],
                                   [8, 3, 4, 4, 0.4])  # fmt: skip
        does[0]()
        self.instance.agent.tick()

    def prompt(self):
        namespace, tokens = self.random.choice([PLAIN, PLAIN, SALTED, LORA]), []
        if self.seen and self.random.random() < 0.7:
            namespace, tokens = self.random.choice(self.seen)
            tokens = tokens[: self.random.randrange(0, len(tokens) + 1, PAGE)]
        more = [self.random.randrange(3) for _ in range(self.random.randrange(PAGE, 4 * PAGE, PAGE))]
        self.seen.append((namespace, [*tokens, *more][: 10 * PAGE]))
        return self.seen[-1]

    def compute(self):
        namespace, tokens = self.prompt()
        if self.make_room(len(tokens)):
            self.instance.finish(tokens, namespace)

    def compute_twice(self):
        """As where two requests with the same prompt ran at once: the tree frees the second one's KV."""
        namespace, tokens = self.prompt()
        if self.make_room(len(tokens)):
            slots = self.instance.allocator.alloc(len(tokens))
            self.instance.tree.insert(
                InsertParams(
                    key=self.tools.key_of(tokens, namespace),
                    value=slots,
                    prev_prefix_len=0,
                    inserted_len=0,
                )
            )

    def make_room(self, tokens):
        allocator = self.instance.allocator
        if allocator.available_size() < tokens:
            self.instance.tree.evict(EvictParams(num_tokens=tokens - allocator.available_size()))
        return allocator.available_size() >= tokens

    def evict(self):
        self.instance.tree.evict(EvictParams(num_tokens=self.random.randrange(PAGE, 8 * PAGE)))

    def ask(self):
        """What left HBM comes back from DRAM, to other pages."""
        if self.seen:
            namespace, tokens = self.random.choice(self.seen)
            self.instance.ask(tokens, namespace)

    def flush(self):
        self.instance.tree.reset()
        self.instance.allocator.clear()


@pytest.fixture(params=["rust", "python"])
def instance(make_instance, request):
    return make_instance("p", "prefill", core=request.param)


@pytest.mark.parametrize("seed", range(4))
def test_a_follower_knows_at_any_time_what_the_tree_has_and_where(instance, tools, seed):
    driven, follower, late = Driven(instance, tools, seed), FeedClient(instance), None
    for n in range(150):
        driven.act()
        follower.hear()
        late = FeedClient(instance) if n % 50 == 25 else late
        # A mistake stays until its blocks go: older prompts, and newcomers, are looked at now and then.
        thorough = n % 5 == 4
        fresh = FeedClient(instance) if thorough else None
        followers = [each for each in (follower, late, fresh) if each]
        for each in followers:
            each.hear()
        for namespace, tokens in driven.seen[-60 if thorough else -12 :]:
            pages = instance.pages_of(tokens, namespace)
            assert all(each.has(tokens, namespace) == pages for each in followers)
    assert instance.everything_is_accounted_for()
    assert "hbm_events_failed" not in instance.agent.counters()
    instance.evict_all()
    instance.agent.tick()
    follower.hear()
    assert follower.mirror.tree.nodes == 0
    assert instance.agent._hbm_index._index.blocks_of(instance.agent._hbm_index._owner) == 0
    instance.agent._hbm_index._index.check_integrity()


def test_nothing_is_published_twice(instance):
    follower = FeedClient(instance)
    instance.compute(TOKENS)
    instance.compute(TOKENS)
    instance.compute(TOKENS[:12])
    instance.agent.tick()
    (event,) = follower.hear()
    assert isinstance(event, Stored)
    assert (event.namespace, len(event.tokens)) == ("[null,null]", 4 * len(TOKENS))


def test_evictions_are_published_in_one_tick_and_a_flush_in_one_event(instance):
    follower = FeedClient(instance)
    instance.compute(TOKENS)
    instance.compute([*TOKENS[:8], *range(70, 78)])
    instance.evict_all()
    instance.agent.tick()
    kinds = [type(event) for event in follower.hear()]
    assert kinds[:2] == [Stored, Stored]
    assert set(kinds[2:]) == {Removed}
    instance.compute(TOKENS)
    instance.tree.reset()
    instance.agent.tick()
    assert [type(event) for event in follower.hear()] == [Stored, Cleared]


def test_the_scheduler_does_not_wait_while_a_snapshot_is_taken(instance):
    follower = FeedClient(instance)
    with instance.agent._hbm_index._lock:
        instance.compute(TOKENS)
        instance.agent.tick()
    assert follower.hear() == []
    instance.agent.tick()
    assert len(follower.hear()) == 1


def test_made_up_tokens_of_an_image_end_what_is_published(instance):
    follower, image = FeedClient(instance), 1 << 40
    prompt = [*TOKENS[:8], image, *TOKENS[9:16]]
    instance.compute(prompt)
    instance.compute([*prompt, *TOKENS[:8]])
    instance.compute([image, *TOKENS[:7]])
    instance.agent.tick()
    (event,) = follower.hear()
    assert len(event.tokens) == 4 * 8
    assert follower.has(TOKENS) == instance.pages_of(prompt)[:2]
    instance.evict_all()
    instance.agent.tick()
    follower.hear()
    assert follower.mirror.tree.nodes == 0
    assert "hbm_events_failed" not in instance.agent.counters()


def test_a_namespace_that_the_mempool_cannot_carry_is_not_published(instance):
    follower, long = FeedClient(instance), Namespace("x" * 300, None)
    instance.compute(TOKENS, long)
    instance.agent.tick()
    assert follower.hear() == []


def test_a_change_that_fails_is_counted_and_the_rest_is_published(instance):
    """As if SGLang had put KV into its tree that nobody saw."""
    follower, agent = FeedClient(instance), instance.agent
    instance.tree.observe(agent.requests, None)
    instance.compute(TOKENS[:8])
    instance.tree.observe(agent.requests, agent._hbm_index)
    instance.compute(TOKENS)
    instance.compute(TOKENS[8:])
    instance.evict_all()
    instance.agent.tick()
    kinds = [type(event) for event in follower.hear()]
    assert kinds == [Stored, Removed]
    assert instance.agent.counters()["hbm_events_failed"] == 1


def test_sglangs_own_followers_still_hear_of_everything(make_instance):
    publishing = make_instance("p", "prefill", events=True)
    publishing.compute(TOKENS)
    publishing.agent.tick()
    kinds = [type(event).__name__ for event in publishing.tree.take_events()]
    assert "BlockStored" in kinds


@pytest.fixture
def ask():
    """ask(instance, medium): the answer of the feed's server to a newcomer."""
    context = zmq.Context()

    def put(instance, medium):
        socket = context.socket(zmq.DEALER)
        socket.connect(instance.agent.advertised["feed"]["endpoint"])
        socket.send(encode(FeedRequest(1, medium, 0, -1)))
        assert socket.poll(10_000), "no answer"
        return decode_reply(socket.recv())

    yield put
    context.destroy(linger=0)


def test_both_media_are_served_where_the_instance_says(instance, ask):
    instance.finish(TOKENS)
    instance.evict_all()
    instance.compute(TOKENS[:8])
    instance.agent.tick()
    advertised = instance.agent.advertised
    for medium, tokens in ((Medium.HBM, 8), (Medium.DRAM, 24)):
        answer = ask(instance, medium)
        (stored,) = answer.snapshot.stored
        ((owner, _),) = stored.copies
        assert owner == Owner(advertised["instance"], advertised["feed"]["incarnation"], medium)
        assert (answer.incarnation, stored.namespace) == (owner.incarnation, "[null,null]")
        assert len(stored.tokens) == 4 * tokens


def test_dram_that_only_stages_has_no_feed(make_instance, ask):
    plain = make_instance("p", "prefill", dram="0")
    assert isinstance(ask(plain, Medium.HBM), SnapshotReply)
    assert isinstance(ask(plain, Medium.DRAM), Unknown)


@pytest.mark.parametrize("split", [True, False])
def test_the_feed_is_at_server_info(make_instance, monkeypatch, split):
    """Of an instance that is not split too; one without an agent has none."""
    monkeypatch.setattr("sglang_memserve.limits.serves_with_memserve", lambda args: split)
    instance, info, without = make_instance("p", "prefill"), {}, {}
    advertise(info, SimpleNamespace(server_args=None, memserve=SchedulerState(agent=instance.agent)))
    advertise(without, SimpleNamespace(server_args=None))
    assert info["memserve"].items() >= instance.agent.advertised.items()
    assert info["memserve"].get("room_per_sample", False) == split
    assert ("memserve" in without) == split
    assert "feed" not in without.get("memserve", {})
