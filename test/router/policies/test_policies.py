"""Who is chosen, without sockets."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from router.cost.estimator import CostEstimator
from router.cost.speeds import Speeds
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.policies import POLICIES, PerRolePolicy, RoundRobin
from router.prefix_tree import ResponseTree
from router.prompt.request import RoutingRequest, routing_request
from router.scheduling.reservation import PrefillReservation

EVERY = sorted(POLICIES)
SAYS_A, SAYS_B = ({"role": "user", "content": text} for text in "ab")
TOKENS = np.arange(100, dtype=np.int32)


def standing_still():
    """A clock by which a decision takes no time: real time would empty the queues meanwhile."""
    return 100.0


def instances(role, count):
    made = [Instance(f"http://{role}:{number}", role, clock=standing_still) for number in range(1, count + 1)]
    for instance in made:
        instance.up()
    return made


def cluster(prefill=0, decode=0, colocated=0):
    ps, ds, cs = instances("prefill", prefill), instances("decode", decode), instances("colocated", colocated)
    for role, made in ((Role.PREFILL, ps), (Role.DECODE, ds), (Role.COLOCATED, cs)):
        for instance in made:
            instance.role = role
    return Candidates([*ps, *ds, *cs]), ps, ds, cs


def charge(route):
    """As the router does, as long as the request lasts."""
    for instance in route[:2]:
        if instance is not None:
            instance.charge(10)
    if (estimate := route.estimate(route.first)) is not None:
        PrefillReservation(route.first, estimate.busy_s).reserve()


def policy_of(name, tree=None):
    return POLICIES[name](
        tree or ResponseTree(600, 1 << 20), CostEstimator(Speeds(), clock=standing_still), Random(1)
    )


def decoders(policy, candidates, requests):
    return Counter(policy.route(candidates, request).decode for request in requests)


@pytest.mark.parametrize("name", EVERY)
def test_every_policy_uses_all_healthy_instances_and_no_others(name):
    candidates, ps, ds, cs = cluster(prefill=3, decode=3, colocated=3)
    for instance in (ps[0], ds[0], cs[0]):
        instance.down("gone")
    policy, met = policy_of(name), set()
    for number in range(400):
        route = policy.route(candidates, RoutingRequest(tokens=TOKENS + 100 * number, session=f"s{number}"))
        assert (route.prefill is None) == (route.decode.role is Role.COLOCATED)
        charge(route)
        met |= {instance for instance in route[:2] if instance is not None}
    assert met == {*ps[1:], *ds[1:], *cs[1:]}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("prefill", "decode"), [(0, 1), (1, 0)])
def test_half_a_pair_serves_nobody(name, prefill, decode):
    candidates, *_ = cluster(prefill, decode)
    assert policy_of(name).route(candidates, RoutingRequest(session="s")) is None


@pytest.mark.parametrize("name", EVERY)
def test_what_no_pair_can_do_stays_with_colocated_instances(name):
    candidates, _, _, cs = cluster(prefill=2, decode=2, colocated=1)
    policy = policy_of(name)
    for number in range(20):
        request = RoutingRequest(tokens=TOKENS, session=f"s{number}", colocated_only=True)
        assert policy.route(candidates, request)[:2] == (None, cs[0])
    cs[0].down("gone")
    assert policy.route(candidates, RoutingRequest(tokens=TOKENS, colocated_only=True)) is None


@pytest.mark.parametrize("name", ["cost_model", "least_load", "power_of_two", "prompt_tree"])
def test_a_burst_is_spread_because_load_counts_at_once(name):
    candidates, _, _, cs = cluster(colocated=4)
    policy = policy_of(name)
    for _ in range(40):
        charge(policy.route(candidates, RoutingRequest(tokens=TOKENS)))
    loads = [instance.in_flight for instance in cs]
    assert max(loads) <= (20 if name == "power_of_two" else 10)


@pytest.mark.parametrize("name", ["least_load", "power_of_two"])
def test_a_pair_is_as_busy_as_its_busier_half(name):
    candidates, ps, ds, cs = cluster(prefill=1, decode=1, colocated=1)
    policy = policy_of(name)
    ds[0].charge(500)
    cs[0].charge(100)
    assert policy.route(candidates, RoutingRequest()).decode is cs[0]
    cs[0].charge(500)
    assert policy.route(candidates, RoutingRequest())[:2] == (ps[0], ds[0])


def test_a_long_prompt_outweighs_several_short_ones():
    candidates, _, _, cs = cluster(colocated=2)
    cs[0].charge(10_000)
    for _ in range(3):
        cs[1].charge(100)
    assert policy_of("least_load").route(candidates, RoutingRequest()).decode is cs[1]


def test_round_robin_skips_instances_that_are_down():
    candidates, _, ds, _ = cluster(prefill=1, decode=3)
    policy = RoundRobin()
    ds[1].down("gone")
    assert set(decoders(policy, candidates, [RoutingRequest()] * 4)) == {ds[0], ds[2]}
    ds[1].up()
    assert set(decoders(policy, candidates, [RoutingRequest()] * 3)) == set(ds)


def test_round_robin_pairs_everybody_with_everybody():
    candidates, *_ = cluster(prefill=2, decode=3)
    policy = RoundRobin()
    assert len({policy.route(candidates, RoutingRequest())[:2] for _ in range(6)}) == 6


def test_a_death_moves_its_own_sessions_only_and_they_come_back():
    candidates, ps, ds, _ = cluster(prefill=3, decode=3, colocated=2)
    policy = policy_of("session")
    requests = [RoutingRequest(session=f"user={number}") for number in range(300)]
    before = [policy.route(candidates, request)[:2] for request in requests]
    ps[0].down("gone")
    during = [policy.route(candidates, request)[:2] for request in requests]
    moved = [new for old, new in zip(before, during, strict=True) if old != new]
    assert len(moved) == sum(old[0] is ps[0] for old in before) > 20
    assert len({new[0] for new in moved}) > 2
    ds[0].down("gone")
    for old, new in zip(during, [policy.route(candidates, request)[:2] for request in requests], strict=True):
        assert new[0] is old[0]
        assert new[1] is old[1] or old[1] is ds[0]
    ps[0].up()
    ds[0].up()
    assert [policy.route(candidates, request)[:2] for request in requests] == before


def test_sessions_are_spread_evenly_enough():
    candidates, _, _, cs = cluster(colocated=4)
    counts = decoders(
        policy_of("session"), candidates, [RoutingRequest(session=f"s{n}") for n in range(2000)]
    )
    assert set(counts) == set(cs)
    assert min(counts.values()) > 400


@pytest.mark.parametrize(
    ("fields", "same", "other"),
    [
        (
            {"session_id": "a", "text": "x"},
            {"session_id": "a", "text": "y"},
            {"session_id": "b", "text": "x"},
        ),
        ({"user": 7, "prompt": "x"}, {"user": 7, "prompt": "y"}, {"user": 8, "prompt": "x"}),
        (
            {"routing_key": "a", "user": "u"},
            {"routing_key": "a", "user": "v"},
            {"routing_key": "b", "user": "u"},
        ),
        ({"text": "w" * 5000 + "1"}, {"text": "w" * 5000 + "2"}, {"text": "v" * 5000 + "1"}),
        ({"input_ids": [*range(300), 1]}, {"input_ids": [*range(300), 2]}, {"input_ids": [1, *range(300)]}),
        ({"input": [SAYS_A]}, {"input": [SAYS_A, SAYS_B, SAYS_A]}, {"input": [SAYS_B]}),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"},
                ]
            },
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]},
        ),
    ],
)
def test_a_session_is_known_by_its_id_or_by_how_it_begins(fields, same, other):
    keys = [routing_request(body, 100).session for body in (fields, same, other)]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    "fields", [{}, {"text": None}, {"messages": [1]}, {"messages": []}, {"session_id": ""}]
)
def test_without_any_sign_of_a_session_load_decides(fields):
    candidates, _, _, cs = cluster(colocated=2)
    cs[0].charge(100)
    request = routing_request(fields, 100)
    assert request.session is None
    assert policy_of("session").route(candidates, request).decode is cs[1]


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({"extra_key": "a"}, {}),
        ({"cache_salt": "a"}, {"extra_key": "a"}),
        ({"lora_path": "x"}, {"lora_path": "y"}),
        ({"model": "base:x"}, {"model": "base"}),
    ],
)
def test_what_keeps_kv_apart_makes_another_namespace(fields, other):
    assert routing_request(fields, 1).namespace != routing_request(other, 1).namespace


def test_the_longest_prefix_wins_whatever_the_load():
    candidates, _, _, cs = cluster(colocated=3)
    tree = ResponseTree(600, 1 << 20)
    policy = policy_of("prompt_tree", tree)
    tree.stored(cs[1], TOKENS[:40], "")
    tree.stored(cs[2], TOKENS[:80], "")
    cs[2].charge(100_000)
    route = policy.route(candidates, RoutingRequest(tokens=TOKENS))
    assert route.decode is cs[2]
    assert {instance: cached.tokens for instance, cached in route.cached.items()} == {cs[1]: 40, cs[2]: 80}
    cs[2].down("gone")
    assert policy.route(candidates, RoutingRequest(tokens=TOKENS)).decode is cs[1]
    assert policy.route(candidates, RoutingRequest(tokens=TOKENS, namespace="other")).cached == {}


def test_prefill_and_decode_are_chosen_by_what_each_has():
    candidates, ps, ds, _ = cluster(prefill=2, decode=2, colocated=1)
    tree = ResponseTree(600, 1 << 20)
    policy = policy_of("prompt_tree", tree)
    tree.stored(ps[1], TOKENS, "")
    tree.stored(ds[0], TOKENS, "")
    for _ in range(10):
        assert policy.route(candidates, RoutingRequest(tokens=TOKENS))[:2] == (ps[1], ds[0])


def test_equal_prefixes_go_by_load_and_no_tokens_too():
    candidates, _, _, cs = cluster(colocated=3)
    tree = ResponseTree(600, 1 << 20)
    policy = policy_of("prompt_tree", tree)
    for instance in cs[:2]:
        tree.stored(instance, TOKENS, "")
    cs[0].charge(100)
    assert policy.route(candidates, RoutingRequest(tokens=TOKENS)).decode is cs[1]
    cs[1].charge(100)
    assert policy.route(candidates, RoutingRequest()).decode is cs[2]


def test_prefill_and_decode_may_have_policies_of_their_own():
    candidates, ps, ds, cs = cluster(prefill=3, decode=3, colocated=1)
    policy = PerRolePolicy(policy_of("session"), policy_of("round_robin"))
    routes = [policy.route(candidates, RoutingRequest(session=f"s{number % 30}")) for number in range(90)]
    pairs = [route for route in routes if route.prefill is not None]
    assert Counter(route.decode for route in pairs) == {instance: len(pairs) // 3 for instance in ds}
    for number in range(30):
        assert len({(route.prefill, route.prefill or route.decode) for route in routes[number::30]}) == 1
    assert {route.decode for route in routes if route.prefill is None} == {*cs}
    for instance in (*ps, *ds):
        instance.down("gone")
    assert policy.route(candidates, RoutingRequest(session="s"))[:2] == (None, cs[0])
    cs[0].down("gone")
    assert policy.route(candidates, RoutingRequest(session="s")) is None


def test_tokens_are_wanted_where_either_wants_them():
    for names in (("session", "prompt_tree"), ("prompt_tree", "session")):
        assert PerRolePolicy(*map(policy_of, names)).needs_tokens
    assert not PerRolePolicy(policy_of("session"), policy_of("random")).needs_tokens
