"""The router's trees against what the instances do: each prompt is where the router says, and nowhere else.

Instances have pools and DRAM so small that both evict all the time. At quiet points every prompt that was
ever sent, and its first half, are looked up in the trees and then asked of each instance, whose answer tells
how much it had.
"""

import contextlib
import json
import random
import signal
import time
import urllib.request

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

# Tokens: a dozen prompts do not fit into HBM, nor do all of them into DRAM.
FLAGS = ("--max-total-tokens", "2048", "--memserve-dram", "96MiB")
POLICY = {"MEMSERVE_ROUTER_POLICY": "prompt_tree"}
CHATS, TURNS, NEW = 3, 3, 12
PAGE = 16
HEALED_SECONDS = 2


class Trees:
    """What the router at `url` thinks of the instances of `cluster`, and what is."""

    def __init__(self, url, cluster, post, halves, seed=7):
        self.url, self.cluster, self._post, self._halves = url, cluster, post, halves
        self.draw = random.Random(seed)
        self.prompts = []

    def talk(self):
        """Chats whose turns go wherever the router sends them."""
        for _ in range(CHATS):
            ids = []
            for _ in range(TURNS):
                ids += [self.draw.randrange(1000, 40_000) for _ in range(self.draw.randrange(20, 160))]
                status, answer = self._post(self.url, "/generate", body(ids, NEW))
                assert status == 200, answer
                self.prompts.append(list(ids))
                ids += answer["output_ids"]

    def looked_up(self, ids):
        """By instance, how many of a prompt's first tokens the router takes it to have."""
        status, explained = self._post(self.url, "/explain", body(ids, 1))
        assert status == 200, explained
        return {candidate["url"]: candidate["cached_tokens"] for candidate in explained["candidates"]}

    def settled(self, ids):
        """The same once nothing changes any more."""
        deadline, seen = time.monotonic() + 20, self.looked_up(ids)
        while True:
            time.sleep(0.15)
            if (now := self.looked_up(ids)) == seen:
                return now
            assert time.monotonic() < deadline, "the trees do not come to rest"
            seen = now

    def probed(self, look_up):
        """Of every prompt and its half, (looked up, had) by instance, in a random order."""
        halves = [ids[: len(ids) // 2] for ids in self.prompts]
        asked = self.draw.sample(self.prompts + halves, 2 * len(self.prompts))
        return [pair for ids in asked for pair in self._probe(ids, look_up)]

    def _probe(self, ids, look_up):
        for worker in self.cluster.workers("colocated"):
            thought = look_up(ids)[worker["url"]]
            status, answer = self._post(worker["url"], "/generate", body(ids, 1))
            assert status == 200, answer
            yield thought, answer["meta_info"]["cached_tokens"]
        pairs = zip(self.cluster.workers("prefill"), self.cluster.workers("decode"), strict=True)
        for prefill, decode in pairs:
            thought, before = look_up(ids), here(decode["url"])
            first, last = (half.result(60) for half in self._halves(prefill, decode, body(ids, 1)))
            assert first[0] == last[0] == 200, (first, last)
            yield thought[prefill["url"]], first[1]["meta_info"]["cached_tokens"]
            # decode takes all of a prompt that it has; the router counts what may be left out of a prefill.
            had = here(decode["url"], before[0] + len(ids))[1] - before[1]
            yield thought[decode["url"]], min(had, (len(ids) - 1) // PAGE * PAGE)


def body(ids, new):
    params = {"temperature": 0, "max_new_tokens": new, "ignore_eos": True}
    return {"input_ids": ids, "sampling_params": params}


def here(url, after=0):
    """Tokens of the prompts that have ended at a decode instance, and how many of them it had."""
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(f"{url}/server_info", timeout=60) as response:
            counts = json.load(response)["internal_states"][0]["memserve"]
        if (tokens := counts.get("prompt_tokens", 0)) >= after:
            had = ("prompt_tokens_from_hbm", "prompt_tokens_from_dram")
            return tokens, sum(counts.get(name, 0) for name in had)
        assert time.monotonic() < deadline, counts
        time.sleep(0.05)


def wrong(pairs):
    assert 0 < sum(had > 0 for _, had in pairs) < len(pairs), "nothing was evicted, or everything"
    return [pair for pair in pairs if pair[0] != pair[1]]


@pytest.fixture(scope="module")
def two(cluster_of):
    with cluster_of.used("--colocated", "2", flags=FLAGS, env=POLICY) as cluster:
        yield cluster


@pytest.fixture
def router_over(router_process):
    """Another router over the instances of a cluster; gives its URL."""

    @contextlib.contextmanager
    def start(cluster, *flags):
        urls = [worker["url"] for worker in cluster.workers("colocated")]
        with router_process("--policy", "prompt_tree", "--worker-urls", *urls, *flags) as url:
            yield url

    return start


@pytest.mark.full
def test_prefill_and_decode_instances_have_what_the_trees_say(cluster_of, post, halves):
    sizes = ("--colocated", "2", "--prefill", "1", "--decode", "1")
    with cluster_of.used(*sizes, flags=FLAGS, env=POLICY) as cluster:
        trees = Trees(cluster.url, cluster, post, halves)
        for _ in range(3):
            trees.talk()
            assert wrong(trees.probed(trees.settled)) == []


def test_every_prompt_is_where_the_trees_say(two, post, halves):
    trees = Trees(two.url, two, post, halves)
    trees.talk()
    assert wrong(trees.probed(trees.settled)) == []


def test_a_router_that_starts_anew_knows_all_at_once(two, post, halves, router_over):
    trees = Trees(two.url, two, post, halves, seed=8)
    trees.talk()
    known = {tuple(ids): trees.settled(ids) for ids in trees.prompts}
    with router_over(two) as url:
        another, deadline = Trees(url, two, post, halves), time.monotonic() + HEALED_SECONDS
        while any(another.looked_up(list(ids)) != had for ids, had in known.items()):
            assert time.monotonic() < deadline
    assert any(any(had.values()) for had in known.values())


def test_an_instance_that_dies_leaves_the_trees_and_comes_back_to_them(two, post, halves):
    trees = Trees(two.url, two, post, halves, seed=9)
    trees.talk()
    dead, holds = next(
        (worker, index)
        for index, worker in enumerate(two.workers("colocated"))
        if any(trees.settled(ids)[worker["url"]] for ids in trees.prompts)
    )
    seen = two.signal(dead, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while two.workers("colocated")[holds]["healthy"]:
        assert time.monotonic() < deadline
    assert all(trees.looked_up(ids).get(dead["url"], 0) == 0 for ids in trees.prompts)
    two.wait_for(rf"colocated-{holds} .*\bback\b", 240, since=seen)
    while not two.workers("colocated")[holds]["healthy"]:
        assert time.monotonic() < deadline + 240
    assert not any(trees.settled(ids)[dead["url"]] for ids in trees.prompts)
    trees.talk()
    assert wrong(trees.probed(trees.settled)) == []


@pytest.mark.full
def test_by_answers_alone_the_trees_are_stale(two, post, halves, router_over):
    """The paper's way, for comparison: docs/results/routing.md has the figure."""
    with router_over(two, "--tree-update", "response") as url:
        trees, pairs = Trees(url, two, post, halves, seed=10), []
        for _ in range(3):
            trees.talk()
            pairs += trees.probed(trees.looked_up)
    off = wrong(pairs)
    thought, had = (sum(pair[side] for pair in pairs) for side in (0, 1))
    print(f"{len(off)} of {len(pairs)} look-ups are wrong: {thought} tokens thought, {had} there")
    assert off
