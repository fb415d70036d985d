"""The router's decisions, by the clock, timer and random generator that server or simulator give."""

import heapq
import random

import pytest

from router.config.settings import ConfigError, PrefillUrl, RouterConfig
from router.fleet.factory import new_registry
from router.instances.server_info import ServerInfo
from router.prefix_tree import EventTree, ResponseTree
from router.prompt.tokens import Tokens
from router.protocol.usage import ReportedUsage
from router.scheduling.core import router_core

IDS = list(range(1, 201))


class Timer:
    """A simulator's: what is due is called when the clock is moved on."""

    def __init__(self, clock):
        self._clock = clock
        self._due = []

    def call_later(self, delay, callback):
        heapq.heappush(self._due, (self._clock.now + delay, len(self._due), callback))

    def advance(self, seconds):
        self._clock.now += seconds
        while self._due and self._due[0][0] <= self._clock.now:
            heapq.heappop(self._due)[2]()


class Simulation:
    """A pair and a colocated instance, up, without an event loop's time."""

    def __init__(self, clock, seed=1, **settings):
        urls = [f"http://{name}:1" for name in "pdc"]
        config = RouterConfig(
            prefill=(PrefillUrl(urls[0]),), decode=(urls[1],), colocated=(urls[2],), **settings
        )
        self.registry = new_registry(config, clock)
        for instance in self.registry.instances:
            instance.up()
            instance.learn(ServerInfo(page_size=16, device="cuda"))
        self.p, self.d, self.c = self.registry.instances
        self.timer = Timer(clock)
        tokens = Tokens(self.registry.instances, "", 1.0)
        self.core = router_core(
            config,
            self.registry,
            tokens,
            timer=self.timer,
            clock=clock,
            wall_clock=lambda: 7.0,
            rng=random.Random(seed),
        )
        self.scheduler = self.core.scheduler

    async def choose(self, stream=True):
        fields = {"input_ids": IDS, "stream": stream}
        return await self.scheduler.choose(fields, "/generate", 1000)

    def charged(self):
        return [
            (instance.in_flight, instance.charged, instance.charged_seconds > 0)
            for instance in self.registry.instances
        ]


IDLE = [(0, 0, False)] * 3


async def test_a_choice_is_charged_when_it_is_reserved_and_not_before(clock):
    simulation = Simulation(clock)
    placement = await simulation.choose()
    assert simulation.charged() == IDLE
    reservations = placement.reserve()
    assert simulation.charged() != IDLE
    for reservation in reservations:
        if reservation is not None:
            reservation.release()
    assert simulation.charged() == IDLE


async def test_what_was_answered_is_known_to_the_next_decision(clock):
    simulation = Simulation(clock)
    first = await simulation.choose()
    simulation.scheduler.began(first)
    simulation.scheduler.answered(first, ReportedUsage(200, 0))
    second = await simulation.choose()
    assert second.route.first is first.route.first
    assert second.decision.predicted == 192
    # By the clock that was given, it is forgotten in time.
    clock.now += 10_000
    assert (await simulation.choose()).decision.predicted == 0
    assert [decision.made_at for decision in simulation.scheduler.decisions.last(3)] == [7.0] * 3


async def test_an_answer_that_is_not_streamed_ends_its_prefill_by_the_timer(clock):
    simulation = Simulation(clock)
    simulation.p.down("gone")
    placement = await simulation.choose(stream=False)
    (_, reservation) = placement.reserve()
    assert simulation.c.charged_seconds > 0
    simulation.timer.advance(60)
    assert simulation.charged()[2] == (1, placement.request.prompt_tokens + 128, False)
    reservation.release()
    assert simulation.charged() == IDLE


@pytest.mark.parametrize("policy", ["random", "power_of_two", "least_load"])
async def test_the_same_seed_makes_the_same_choices(clock, policy):
    async def choices(seed):
        simulation = Simulation(clock, seed, policy=policy)
        return [(await simulation.choose()).route.decode.url for _ in range(30)]

    assert await choices(1) == await choices(1)
    assert await choices(1) != await choices(2)


@pytest.mark.parametrize(("update", "tree"), [("events", EventTree), ("response", ResponseTree)])
async def test_the_tree_is_the_one_that_was_asked_for(clock, update, tree):
    assert isinstance(Simulation(clock, tree_update=update).core.tree, tree)


async def test_a_profile_that_cannot_be_read_is_named(clock):
    with pytest.raises(ConfigError, match="/no/such/profile"):
        Simulation(clock, profile="/no/such/profile")


@pytest.mark.parametrize("roles", [{}, {"decode_policy": "cache_aware"}])
async def test_a_name_of_sglang_router_is_said_once(caplog, clock, roles):
    with caplog.at_level("INFO", "router.scheduling.core"):
        Simulation(clock, policy="cache_aware", **roles)
    assert caplog.messages == ["policy cache_aware of sglang_router is prompt_tree here"]
