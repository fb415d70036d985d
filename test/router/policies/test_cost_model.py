"""Route to the KV, fetch it, or compute it again: what is least, without sockets."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from router.cost.estimator import CostEstimator
from router.cost.speeds import Speeds
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.policies import CostModelPolicy
from router.prefix_tree import Cached
from router.prompt.request import RoutingRequest
from router.scheduling.reservation import PrefillReservation

TOKENS = np.arange(4096, dtype=np.int32)
REQUEST = RoutingRequest(tokens=TOKENS, prompt_tokens=4096, new_tokens=64)
PAGE = 16


def standing_still():
    """A clock by which a decision takes no time."""
    return 100.0


def reserved(instance, seconds, source=None, sending_s=0.0):
    prefill = PrefillReservation(instance, seconds, source=source, sending_s=sending_s)
    prefill.reserve()
    return prefill


class Tree:
    """Knows what it is told."""

    def __init__(self):
        self.has = {}

    def match(self, tokens, namespace):
        return dict(self.has)


class House:
    """`house.c[0]` and so on, by the first letters of the roles; all fetch from each other."""

    def __init__(self, prefill=0, decode=0, colocated=0, fetches=True):
        counts = {Role.PREFILL: prefill, Role.DECODE: decode, Role.COLOCATED: colocated}
        made = {
            role: [
                Instance(f"http://{role.value}{number}:1", role, clock=standing_still)
                for number in range(count)
            ]
            for role, count in counts.items()
        }
        self.p, self.d, self.c = made.values()
        self.candidates = Candidates([*self.p, *self.d, *self.c])
        for instance in self.candidates.instances:
            instance.up()
            instance.learn(
                ServerInfo(page_size=PAGE, instance=instance.url if fetches else "", device="cuda")
            )
        self.tree = Tree()
        self.estimator = CostEstimator(Speeds(), clock=standing_still)
        self.policy = CostModelPolicy(self.tree, self.estimator)
        self.speed = self.estimator.speeds.of(self.candidates.instances[0])

    def route(self, request=REQUEST):
        return self.policy.route(self.candidates, request)

    def has(self, instance, tokens, hbm=None):
        self.tree.has[instance] = Cached(tokens, tokens if hbm is None else hbm)

    def burst(self, count, request=REQUEST):
        """Requests that all come before any ends. Returns the routes, and lets go of what was charged."""
        routes, reservations = [], []
        for _ in range(count):
            route = self.route(request)
            estimate = route.estimate(route.first)
            plan = estimate.plan
            source = plan.fetch and plan.fetch.source
            reservations.append(reserved(route.first, estimate.busy_s, source, plan.source_busy_s))
            routes.append(route)
        for reservation in reservations:
            reservation.release()
        return routes


def how(house, route):
    estimate = route.estimate(route.first)
    if estimate.plan.fetch:
        return "fetch"
    return "route" if house.tree.has.get(route.first) else "recompute"


def test_idle_instances_are_chosen_by_where_the_kv_is():
    house = House(colocated=3)
    house.has(house.c[1], 4080)
    assert {house.route().decode for _ in range(20)} == {house.c[1]}


@pytest.mark.parametrize("fetches", [True, False])
def test_a_busy_holder_is_left_at_the_queue_that_the_model_computes(fetches):
    house = House(colocated=2, fetches=fetches)
    holder, other = house.c
    house.has(holder, 4080)
    speed = house.speed
    there = speed.prefill(4080, 16)
    elsewhere = speed.prefill(0, 4096)
    if fetches:
        # The holder sends once the forward that it is in is over.
        moved = speed.fetch(4080) + speed.swap_in(4080) + there
        elsewhere = min(elsewhere, moved + min(elsewhere - there, speed.max_forward_s))
    crossover = elsewhere - there
    for queue, chosen in ((0.9 * crossover, holder), (1.1 * crossover, other)):
        reservation = reserved(holder, queue)
        route = house.route()
        assert route.decode is chosen
        assert route.estimate(chosen).queue_s == pytest.approx(0 if chosen is other else queue, abs=1e-5)
        reservation.release()
    assert holder.charged_seconds == 0


def test_it_fetches_where_that_is_cheaper_and_says_how_long_to_wait():
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    fetch = house.route().fetch
    saved = house.speed.prefill(0, 4096) - house.speed.prefill(4080, 16)
    assert (fetch.source, fetch.tokens) == (house.d[0], 4080)
    assert fetch.deadline_ms == pytest.approx(1e3 * saved)
    # A prefix that is computed sooner than it comes.
    house.has(house.d[0], 32)
    assert house.route().fetch is None


def test_fetch_or_recompute_is_decided_where_the_models_times_cross():
    house = House(prefill=1, decode=1)
    speed, plans = house.speed, set()
    for tokens in range(PAGE, 4096, PAGE):
        house.has(house.d[0], tokens)
        fetched = speed.fetch(tokens) + speed.swap_in(tokens) + speed.prefill(tokens, 4096 - tokens)
        plan = "fetch" if fetched < speed.prefill(0, 4096) else "recompute"
        assert how(house, house.route()) == plan
        plans.add(plan)
    assert plans == {"fetch", "recompute"}


@pytest.mark.parametrize("who", ["source", "fetcher"])
def test_no_fetch_by_or_from_an_instance_without_a_name_in_the_mempool(who):
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    instance = house.d[0] if who == "source" else house.p[0]
    instance.learn(ServerInfo(page_size=PAGE, device="cuda"))
    assert house.route().fetch is None
    instance.learn(ServerInfo(page_size=64, device="cuda", instance="x"))
    assert house.route().fetch is None


def test_of_equal_sources_the_one_that_sends_less_is_asked():
    house = House(prefill=1, decode=3)
    for instance in house.d:
        house.has(instance, 4080)
    reserved(house.p[0], 0, house.d[0], 0.01)
    house.d[1].charge(100_000)
    assert {house.route().fetch.source for _ in range(10)} == {house.d[2]}


def test_a_source_that_is_too_busy_is_spared():
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    assert how(house, house.route()) == "fetch"
    reserved(house.p[0], 0, house.d[0], 10.0)
    assert how(house, house.route()) == "recompute"


def test_a_source_is_charged_with_what_it_sends_not_with_its_queue():
    house = House(colocated=2)
    holder, other = house.c
    house.has(holder, 4080)
    reserved(holder, 0.008)
    holder.charge(4096)
    plan = house.route().estimate(other).plan
    assert plan.fetch.source is holder
    assert plan.source_busy_s == house.speed.fetch(4080) < plan.fetch_s


def test_an_instance_that_has_not_reported_looks_no_better_than_others():
    house = House(colocated=2)
    house.c[1].learn(None)
    for instance in house.c:
        instance.learn(
            instance.server_info
            and dataclasses.replace(instance.server_info, model="/no/such/model", device="cpu")
        )
    estimate = house.route().estimate
    assert estimate(house.c[1]).plan.compute_s == estimate(house.c[0]).plan.compute_s


def test_another_source_that_has_less_takes_over_from_a_busy_one():
    house = House(prefill=1, decode=2)
    house.has(house.d[0], 4080)
    house.has(house.d[1], 3072)
    assert house.route().fetch.source is house.d[0]
    reserved(house.p[0], 0, house.d[0], 10.0)
    assert house.route().fetch[:2] == (house.d[1], 3072)


@pytest.mark.parametrize("fetches", [True, False])
def test_a_hot_prefix_spreads_before_its_holders_queue_costs_more(fetches):
    house = House(colocated=4, fetches=fetches)
    house.has(house.c[0], 4080)
    routes = house.burst(400)
    share = Counter(route.decode for route in routes)
    assert set(share) == set(house.c)
    assert share[house.c[0]] == max(share.values())
    longest = max(route.estimate(house.c[0]).queue_s for route in routes if route.decode is house.c[0])
    assert longest > 0
    for route in routes:
        estimate = route.estimate(route.decode)
        others = [route.estimate(instance).total_s for instance in house.c]
        assert estimate.total_s <= min(others) + 0.021 * estimate.until_prefilled_s
    assert (
        [instance.charged_seconds for instance in house.c]
        == [instance.sending_seconds for instance in house.c]
        == [0] * 4
    )


def test_prompts_that_wait_together_share_a_forward():
    house = House(colocated=1)
    house.has(house.c[0], 4080)
    first, second = (route.estimate(house.c[0]) for route in house.burst(2))
    assert first.busy_s == house.speed.prefill(4080, 16)
    assert second.queue_s == pytest.approx(first.busy_s, abs=1e-5)
    assert second.busy_s == pytest.approx(first.busy_s - house.speed.prefill(0, 1))


def test_a_prompt_that_nobody_has_goes_to_a_cold_instance():
    house = House(colocated=4)
    house.has(house.c[0], 64)
    routes = house.burst(40)
    assert min(Counter(route.decode for route in routes).values()) >= 8


def test_ties_go_to_the_less_loaded_and_then_at_random():
    house = House(colocated=3)
    assert len({house.route().decode for _ in range(60)}) == 3
    for instance in house.c[:2]:
        instance.charge(1)
    assert {house.route().decode for _ in range(10)} == {house.c[2]}


def test_load_decides_within_the_error_of_predictions():
    house = House(colocated=2)
    house.has(house.c[0], 32)
    assert {house.route().decode for _ in range(20)} == set(house.c)
    house.c[0].charge(1)
    assert {house.route().decode for _ in range(10)} == {house.c[1]}
    house.has(house.c[0], 1024)
    assert {house.route().decode for _ in range(10)} == {house.c[0]}


def test_a_colocated_instance_sends_nothing_and_decodes_itself():
    house = House(prefill=1, decode=1, colocated=1)
    house.d[0].charge(50_000)
    route = house.route()
    pair, whole = route.estimate(house.p[0]), route.estimate(house.c[0])
    assert (pair.send_s, whole.send_s) == (house.speed.send(4096), 0)
    assert pair.decode_s == pytest.approx(64 * house.speed.step(2, 54_096))
    assert whole.decode_s == pytest.approx(64 * house.speed.step(1, 4096))


def test_what_is_in_dram_costs_its_swap_in():
    house = House(colocated=2)
    house.has(house.c[0], 4080, hbm=0)
    house.has(house.c[1], 4080)
    route = house.route()
    assert route.decode is house.c[1]
    swap_in_s = route.estimate(house.c[0]).plan.swap_in_s
    assert swap_in_s == pytest.approx(house.speed.swap_in(4080))
    assert route.estimate(house.c[0]).total_s - route.estimate(house.c[1]).total_s == pytest.approx(swap_in_s)


def test_decode_instances_are_chosen_by_what_is_sent_and_their_steps():
    house = House(prefill=1, decode=2, fetches=False)
    house.has(house.d[0], 4080)
    assert {house.route().decode for _ in range(10)} == {house.d[0]}
    for _ in range(300):
        house.d[0].charge(4000)
    assert house.route().decode is house.d[1]


def test_a_busy_pair_loses_to_a_colocated_instance_and_the_reverse():
    house = House(prefill=1, decode=1, colocated=1, fetches=False)
    reservation = reserved(house.p[0], 5.0)
    assert house.route().decode is house.c[0]
    reservation.release()
    reserved(house.c[0], 5.0)
    assert house.route()[:2] == (house.p[0], house.d[0])


def test_without_tokens_a_guessed_length_counts_and_nothing_is_cached():
    house = House(colocated=2)
    house.has(house.c[0], 4080)
    route = house.route(RoutingRequest(prompt_tokens=4096, new_tokens=64))
    assert route.estimate(house.c[0]).plan.compute_s == house.speed.prefill(0, 4096)
    reserved(house.c[0], 0.01)
    assert house.route(RoutingRequest(prompt_tokens=4096)).decode is house.c[1]
    # A picture is long in bytes.
    huge = house.route(RoutingRequest(prompt_tokens=1 << 30))
    assert huge.estimate(house.c[1]).plan.compute_s == house.speed.prefill(0, 32_768)


def test_what_was_observed_of_an_instance_corrects_its_estimate():
    house = House(colocated=2)
    slow, other = house.c
    for _ in range(200):
        route = house.route()
        house.estimator.observe(slow, route.estimate(slow), 1.5 * house.speed.prefill(0, 4096))
    route = house.route()
    assert route.decode is other
    assert route.estimate(slow).plan.compute_s == pytest.approx(
        1.5 * route.estimate(other).plan.compute_s, rel=0.01
    )
    assert route.estimate(slow).plan.uncorrected_s == route.estimate(other).plan.uncorrected_s


def test_a_prefill_with_a_fetch_says_nothing_of_its_instance():
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    estimate = house.route().estimate(house.p[0])
    assert estimate.plan.fetch
    house.estimator.observe(house.p[0], estimate, 9.0)
    assert house.estimator.residuals.exported() == {}
