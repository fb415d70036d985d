"""Route to the KV, fetch it, or compute it again: what is least, without sockets."""

import dataclasses
from collections import Counter
from inspect import getsourcelines

import numpy as np
import pytest

from router.cost.estimator import CostEstimator
from router.cost.speeds import Speeds
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.policies import CostModelPolicy, cost_model
from router.prefix_tree import Cached
from router.prompt.request import RoutingRequest
from router.scheduling.reservation import PrefillReservation

TOKENS = np.arange(4096, dtype=np.int32)
ASK = RoutingRequest(tokens=TOKENS, prompt_tokens=4096, new_tokens=64)
PAGE = 16


class Tree:
    """Knows what it is told."""

    def __init__(self):
        self.has = {}

    def match(self, tokens, namespace):
        return dict(self.has)


class House:
    """`house.c[0]` and so on, by the first letters of the roles; all fetch from each other."""

    def __init__(self, prefill=0, decode=0, colocated=0, fetch_s=True):
        counts = {Role.PREFILL: prefill, Role.DECODE: decode, Role.COLOCATED: colocated}
        made = {
            role: [Instance(f"http://{role.value}{number}:1", role) for number in range(count)]
            for role, count in counts.items()
        }
        self.p, self.d, self.c = made.values()
        self.candidates = Candidates([*self.p, *self.d, *self.c])
        for one in self.candidates.instances:
            one.up()
            one.learn(ServerInfo(page_size=PAGE, instance=one.url if fetch_s else "", device="cuda"))
        self.tree = Tree()
        self.prices = CostEstimator(Speeds())
        self.policy = CostModelPolicy(self.tree, self.prices)
        self.speed = self.prices.speeds.of(self.candidates.instances[0])

    def route(self, ask=ASK):
        return self.policy.route(self.candidates, ask)

    def has(self, one, tokens, hbm=None):
        self.tree.has[one] = Cached(tokens, tokens if hbm is None else hbm)

    def burst(self, count, ask=ASK):
        """Requests that all come before any ends. Returns the routes, and lets go of what was charged."""
        routes, works = [], []
        for _ in range(count):
            route = self.route(ask)
            way = route.price(route.first).way
            source = way.fetch and way.fetch.source
            works.append(PrefillReservation(route.first, route.price(route.first).work, source, way.sending))
            routes.append(route)
        for work in works:
            work.drop()
        return routes


def how(house, route):
    price = route.price(route.first)
    if price.way.fetch:
        return "fetch"
    return "route" if house.tree.has.get(route.first) else "recompute"


def test_idle_instances_are_chosen_by_where_the_kv_is():
    house = House(colocated=3)
    house.has(house.c[1], 4080)
    assert {house.route().decode for _ in range(20)} == {house.c[1]}


@pytest.mark.parametrize("fetch_s", [True, False])
def test_a_busy_holder_is_left_at_the_queue_that_the_model_computes(fetch_s):
    house = House(colocated=2, fetch_s=fetch_s)
    holder, other = house.c
    house.has(holder, 4080)
    speed = house.speed
    there = speed.prefill(4080, 16)
    elsewhere = speed.prefill(0, 4096)
    if fetch_s:
        # The holder sends once the forward that it is in is over.
        moved = speed.fetch(4080) + speed.swap_in(4080) + there
        elsewhere = min(elsewhere, moved + min(elsewhere - there, speed.forward_s))
    crossover = elsewhere - there
    for queue, chosen in ((0.9 * crossover, holder), (1.1 * crossover, other)):
        work = PrefillReservation(holder, queue)
        route = house.route()
        assert route.decode is chosen
        assert route.price(chosen).queue == pytest.approx(0 if chosen is other else queue, abs=1e-5)
        work.drop()
    assert holder.charged_seconds == 0


def test_it_fetches_where_that_is_less_than_to_compute_and_says_how_long_to_wait():
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
    speed, ways = house.speed, set()
    for tokens in range(PAGE, 4096, PAGE):
        house.has(house.d[0], tokens)
        fetched = speed.fetch(tokens) + speed.swap_in(tokens) + speed.prefill(tokens, 4096 - tokens)
        way = "fetch" if fetched < speed.prefill(0, 4096) else "recompute"
        assert how(house, house.route()) == way
        ways.add(way)
    assert ways == {"fetch", "recompute"}


@pytest.mark.parametrize("who", ["source", "fetcher"])
def test_who_has_no_name_in_the_mempool_neither_fetches_nor_is_fetched_from(who):
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    one = house.d[0] if who == "source" else house.p[0]
    one.learn(ServerInfo(page_size=PAGE, device="cuda"))
    assert house.route().fetch is None
    one.learn(ServerInfo(page_size=64, device="cuda", instance="x"))
    assert house.route().fetch is None


def test_of_equal_sources_the_one_that_sends_less_is_asked():
    house = House(prefill=1, decode=3)
    for one in house.d:
        house.has(one, 4080)
    PrefillReservation(house.p[0], 0, house.d[0], 0.01)
    house.d[1].charge(100_000)
    assert {house.route().fetch.source for _ in range(10)} == {house.d[2]}


def test_a_source_that_is_too_busy_is_spared():
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    assert how(house, house.route()) == "fetch"
    PrefillReservation(house.p[0], 0, house.d[0], 10.0)
    assert how(house, house.route()) == "recompute"


def test_a_source_is_charged_with_what_it_sends_and_not_with_its_queue_again():
    house = House(colocated=2)
    holder, other = house.c
    house.has(holder, 4080)
    PrefillReservation(holder, 0.008)
    holder.charge(4096)
    way = house.route().price(other).way
    assert way.fetch.source is holder
    assert way.sending == house.speed.fetch(4080) < way.fetch_s


def test_one_that_has_not_told_what_it_is_looks_no_better_than_the_others():
    house = House(colocated=2)
    house.c[1].learn(None)
    for one in house.c:
        one.learn(
            one.server_info and dataclasses.replace(one.server_info, model="/no/such/model", device="cpu")
        )
    price = house.route().price
    assert price(house.c[1]).way.compute_s == price(house.c[0]).way.compute_s


def test_another_source_that_has_less_takes_over_from_a_busy_one():
    house = House(prefill=1, decode=2)
    house.has(house.d[0], 4080)
    house.has(house.d[1], 3072)
    assert house.route().fetch.source is house.d[0]
    PrefillReservation(house.p[0], 0, house.d[0], 10.0)
    assert house.route().fetch[:2] == (house.d[1], 3072)


@pytest.mark.parametrize("fetch_s", [True, False])
def test_a_hot_prefix_spreads_before_its_holders_queue_costs_more_than_to_do_without(fetch_s):
    house = House(colocated=4, fetch_s=fetch_s)
    house.has(house.c[0], 4080)
    routes = house.burst(400)
    share = Counter(route.decode for route in routes)
    assert set(share) == set(house.c)
    assert share[house.c[0]] == max(share.values())
    longest = max(route.price(house.c[0]).queue for route in routes if route.decode is house.c[0])
    assert longest > 0
    for route in routes:
        price = route.price(route.decode)
        others = [route.price(one).total for one in house.c]
        assert price.total <= min(others) + 0.021 * price.prefilled
    assert [one.charged_seconds for one in house.c] == [one.sending_seconds for one in house.c] == [0] * 4


def test_what_waits_together_shares_a_forward():
    house = House(colocated=1)
    house.has(house.c[0], 4080)
    first, second = (route.price(house.c[0]) for route in house.burst(2))
    assert first.work == house.speed.prefill(4080, 16)
    assert second.queue == pytest.approx(first.work, abs=1e-5)
    assert second.work == pytest.approx(first.work - house.speed.prefill(0, 1))


def test_cold_instances_get_what_nobody_has():
    house = House(colocated=4)
    house.has(house.c[0], 64)
    routes = house.burst(40)
    assert min(Counter(route.decode for route in routes).values()) >= 8


def test_instances_that_cost_the_same_are_drawn_at_random_and_the_less_loaded_first():
    house = House(colocated=3)
    assert len({house.route().decode for _ in range(60)}) == 3
    for one in house.c[:2]:
        one.charge(1)
    assert {house.route().decode for _ in range(10)} == {house.c[2]}


def test_a_difference_that_no_prediction_can_tell_leaves_it_to_load():
    house = House(colocated=2)
    house.has(house.c[0], 32)
    assert {house.route().decode for _ in range(20)} == set(house.c)
    house.c[0].charge(1)
    assert {house.route().decode for _ in range(10)} == {house.c[1]}
    house.has(house.c[0], 1024)
    assert {house.route().decode for _ in range(10)} == {house.c[0]}


def test_a_colocated_instance_sends_nothing_and_decodes_beside_its_own_streams():
    house = House(prefill=1, decode=1, colocated=1)
    house.d[0].charge(50_000)
    route = house.route()
    pair, whole = route.price(house.p[0]), route.price(house.c[0])
    assert (pair.sending, whole.sending) == (house.speed.send(4096), 0)
    assert pair.decoding == pytest.approx(64 * house.speed.step(2, 54_096))
    assert whole.decoding == pytest.approx(64 * house.speed.step(1, 4096))


def test_what_is_in_dram_costs_its_swap_in():
    house = House(colocated=2)
    house.has(house.c[0], 4080, hbm=0)
    house.has(house.c[1], 4080)
    route = house.route()
    assert route.decode is house.c[1]
    swap_in_s = route.price(house.c[0]).way.swap_in_s
    assert swap_in_s == pytest.approx(house.speed.swap_in(4080))
    assert route.price(house.c[0]).total - route.price(house.c[1]).total == pytest.approx(swap_in_s)


def test_decode_instances_are_chosen_by_what_is_to_be_sent_and_by_their_steps():
    house = House(prefill=1, decode=2, fetch_s=False)
    house.has(house.d[0], 4080)
    assert {house.route().decode for _ in range(10)} == {house.d[0]}
    for _ in range(300):
        house.d[0].charge(4000)
    assert house.route().decode is house.d[1]


def test_a_busy_pair_loses_to_a_colocated_instance_and_the_reverse():
    house = House(prefill=1, decode=1, colocated=1, fetch_s=False)
    work = PrefillReservation(house.p[0], 5.0)
    assert house.route().decode is house.c[0]
    work.drop()
    PrefillReservation(house.c[0], 5.0)
    assert house.route()[:2] == (house.p[0], house.d[0])


def test_without_tokens_a_guess_at_the_length_is_priced_with_nothing_cached():
    house = House(colocated=2)
    house.has(house.c[0], 4080)
    route = house.route(RoutingRequest(prompt_tokens=4096, new_tokens=64))
    assert route.price(house.c[0]).way.compute_s == house.speed.prefill(0, 4096)
    PrefillReservation(house.c[0], 0.01)
    assert house.route(RoutingRequest(prompt_tokens=4096)).decode is house.c[1]
    # A picture is long in bytes.
    huge = house.route(RoutingRequest(prompt_tokens=1 << 30))
    assert huge.price(house.c[1]).way.compute_s == house.speed.prefill(0, 32_768)


def test_what_was_observed_of_an_instance_corrects_its_price():
    house = House(colocated=2)
    slow, other = house.c
    for _ in range(200):
        route = house.route()
        house.prices.observe(slow, route.price(slow), 1.5 * house.speed.prefill(0, 4096))
    route = house.route()
    assert route.decode is other
    assert route.price(slow).way.compute_s == pytest.approx(1.5 * route.price(other).way.compute_s, rel=0.01)
    assert route.price(slow).way.model == route.price(other).way.model


def test_a_prefill_that_had_to_fetch_says_nothing_of_its_instance():
    house = House(prefill=1, decode=1)
    house.has(house.d[0], 4080)
    price = house.route().price(house.p[0])
    assert price.way.fetch
    house.prices.observe(house.p[0], price, 9.0)
    assert house.prices.residuals.exported() == {}


def test_the_policy_stays_short():
    assert len(getsourcelines(cost_model)[0]) < 70
