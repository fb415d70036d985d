"""Which instance has which prefix, and for how long that is believed."""

import random

import numpy as np
import pytest

from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.prefix_tree import ResponseTree

A, B = "http://a:1", "http://b:1"


@pytest.fixture
def tree(clock):
    return ResponseTree(10, 1 << 20, clock)


def new_instance(url=A, page_size=1):
    made = Instance(url, Role.COLOCATED)
    made.learn(ServerInfo(page_size=page_size))
    return made


def tokens(*pieces):
    return np.array([token for piece in pieces for token in piece], dtype=np.int32)


def found(tree, prompt, namespace):
    """How many tokens each instance has."""
    return {instance: cached.tokens for instance, cached in tree.match(prompt, namespace).items()}


def test_each_instance_has_its_own_longest_prefix(tree):
    a, b = new_instance(A), new_instance(B)
    tree.stored(a, tokens(range(100)), "")
    tree.stored(b, tokens(range(50), range(500, 600)), "")
    assert found(tree, tokens(range(80), [7, 8]), "") == {a: 80, b: 50}
    assert found(tree, tokens(range(50), range(500, 601)), "") == {a: 50, b: 150}
    assert found(tree, tokens([1, 2]), "") == {}
    assert found(tree, tokens(range(80)), "other") == {}


def test_the_last_token_of_a_prompt_is_never_cached(tree):
    a, paged = new_instance(A), new_instance(B, page_size=16)
    for instance in (a, paged):
        tree.stored(instance, tokens(range(64)), "")
    assert found(tree, tokens(range(64)), "") == {a: 63, paged: 48}


def test_what_is_cached_comes_in_whole_pages_of_each_instance(tree):
    coarse, fine = new_instance(A, page_size=64), new_instance(B, page_size=16)
    for instance in (coarse, fine):
        tree.stored(instance, tokens(range(100)), "")
    assert found(tree, tokens(range(90), [5]), "") == {coarse: 64, fine: 80}
    assert found(tree, tokens(range(200)), "") == {coarse: 64, fine: 96}
    assert found(tree, tokens(range(17)), "") == {fine: 16}


def test_an_entry_counts_for_its_time_to_live(tree, clock):
    a, b = new_instance(A), new_instance(B)
    tree.stored(a, tokens(range(100)), "")
    clock.now += 6
    tree.stored(a, tokens(range(40)), "")
    tree.stored(b, tokens(range(100)), "")
    clock.now += 5
    assert found(tree, tokens(range(200)), "") == {a: 40, b: 100}
    clock.now += 6
    assert found(tree, tokens(range(200)), "") == {}
    tree.stored(a, tokens([1, 2, 3]), "x")
    assert tree.sizes() == {"tokens": 3, "nodes": 1, "entries": 1}


@pytest.mark.parametrize("end", ["down", "forgot"])
def test_what_an_instance_lost_is_gone_at_once(tree, end):
    a, b = new_instance(A), new_instance(B)
    for instance in (a, b):
        tree.stored(instance, tokens(range(100)), "")
    {"down": lambda: a.down("gone"), "forgot": a.bump_cache_epoch}[end]()
    assert found(tree, tokens(range(200)), "") == {b: 100}
    tree.stored(a, tokens(range(20)), "")
    assert found(tree, tokens(range(200)), "") == {a: 20, b: 100}


def test_the_oldest_go_when_it_is_full(clock):
    tree = ResponseTree(1000, 1000, clock)
    a = new_instance()
    for number in range(50):
        tree.stored(a, tokens([number], range(1000, 1099)), "")
        clock.now += 1
        assert tree.sizes()["tokens"] <= 1100
    assert found(tree, tokens([0], range(1000, 1100)), "") == {}
    assert found(tree, tokens([49], range(1000, 1100)), "") == {a: 100}


def test_namespaces_fill_the_tree_as_tokens_do(clock):
    tree, a = ResponseTree(1e9, 1 << 16, clock), new_instance()
    for number in range(500):
        tree.stored(a, tokens([1, 2, 3]), f"{number}" + 3000 * "s")
    kept = [number for number in range(500) if found(tree, tokens([1, 2, 3, 4]), f"{number}" + 3000 * "s")]
    assert 10 <= len(kept) <= 24
    assert kept[-1] == 499
    for number in range(5000):
        tree.stored(a, tokens([1, 2, 3]), f"{number}")
    assert tree.sizes()["nodes"] < 512


def test_repeating_a_prompt_takes_no_more_memory(clock):
    tree = ResponseTree(1e9, 6400, clock)
    a = new_instance()
    for _ in range(2000):
        tree.stored(a, tokens(range(100)), "")
    assert tree.sizes()["entries"] <= 102
    assert found(tree, tokens(range(200)), "") == {a: 100}


def test_it_agrees_with_a_list_of_everything_stored(clock):
    rng = random.Random(5)
    tree, stored = ResponseTree(20, 1 << 20, clock), []
    everybody = [new_instance(f"http://{n}:1", page) for n, page in enumerate((1, 4, 16, 4))]
    for _ in range(3000):
        clock.now += rng.random()
        prompt = [rng.randrange(2) for _ in range(rng.randrange(1, 40))]
        instance = rng.choice(everybody)
        if rng.random() < 0.02:
            instance.bump_cache_epoch()
            stored = [entry for entry in stored if entry[1] is not instance]
        tree.stored(instance, tokens(prompt), "")
        whole = len(prompt) - len(prompt) % instance.page_size
        stored = [entry for entry in stored if entry[0] > clock.now - 20]
        stored.append((clock.now, instance, prompt[:whole]))
        asked = [rng.randrange(2) for _ in range(rng.randrange(1, 40))]
        assert found(tree, tokens(asked), "") == expected(stored, asked)


def expected(stored, asked):
    cached = {}
    for _, instance, prompt in stored:
        pairs = zip(prompt, asked[:-1], strict=False)
        same = next((n for n, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
        same = min(len(prompt), len(asked) - 1) if same is None else same
        same -= same % instance.page_size
        if same:
            cached[instance] = max(same, cached.get(instance, 0))
    return cached
