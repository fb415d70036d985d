"""A prefix that another instance has is fetched for a request that a hint comes with."""

import time
from types import SimpleNamespace

import pytest

TOKENS = list(range(1, 25))
ROOM = 7


@pytest.fixture
def three(make_instance):
    """Two that prefill, of which the second has seen TOKENS, and one that decodes."""
    first, second = make_instance("p0", "prefill"), make_instance("p1", "prefill")
    decode = make_instance("d0", "decode")
    for one, other in ((first, second), (first, decode), (second, decode)):
        one.meet(other)
    second.finish(TOKENS)
    return first, second, decode


def counters(instance):
    return instance.agent.counters()


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("asks", [0, 2])
def test_what_the_hint_names_is_here_when_the_request_is_scheduled(three, tools, asks, custom):
    asking = three[asks]
    asking.arrive(ROOM, [*TOKENS, 99], {"from": "p1", "deadline_ms": 10_000}, custom=custom)
    assert asking.agent.waits(ROOM) or counters(asking)["fetches_came"]
    tools.until(lambda: not asking.agent.waits(ROOM))
    assert counters(asking)["fetches_came"] == 1
    assert counters(asking)["fetched_blocks"] == 6
    assert asking.ask([*TOKENS, 99]) == 24
    assert asking.holds(TOKENS)
    assert asking.everything_is_accounted_for()


def test_what_decode_computed_comes_to_prefill(three, tools):
    first, _, decode = three
    tools.answered(decode, None, TOKENS[:8], [*TOKENS[8:], 99, 99])
    tools.until(lambda: decode.agent.tick() or counters(decode).get("dram_blocks") == 6)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "d0", "deadline_ms": 10_000})
    tools.until(lambda: not first.agent.waits(ROOM))
    assert first.ask([*TOKENS, 99]) == 24
    assert first.holds(TOKENS)


def test_what_is_here_is_not_fetched(three):
    first, _, _ = three
    first.compute(TOKENS)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1"})
    assert "fetches_asked" not in counters(first)


@pytest.mark.parametrize(
    "hint",
    [
        {"from": "p1", "role": "decode"},
        {"from": "p0"},
        {"deadline_ms": 5},
        {"from": "p1", "deadline_ms": -1},
        {},
    ],
)
def test_a_hint_that_is_for_others_or_makes_no_sense_holds_nobody(three, hint):
    first, _, _ = three
    first.arrive(ROOM, [*TOKENS, 99], hint)
    assert not first.agent.waits(ROOM)
    assert "fetches_asked" not in counters(first)


def test_actions_of_others_are_left_alone(three):
    first, _, _ = three
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1"}, action="somebody.elses")
    assert not first.agent.waits(ROOM)


def test_a_source_that_has_nothing_or_is_not_known_costs_no_time(three, tools):
    first, _, _ = three
    first.arrive(ROOM, list(range(500, 530)), {"from": "p1", "deadline_ms": 60_000})
    first.arrive(ROOM + 1, [*TOKENS, 99], {"from": "nobody", "deadline_ms": 60_000})
    tools.until(lambda: not first.agent.waits(ROOM) and not first.agent.waits(ROOM + 1))
    assert counters(first)["fetches_found_nothing"] == 1
    assert counters(first)["fetches_failed_PeerDied"] == 1


def test_a_source_that_stands_still_costs_the_deadline_and_no_more(three, tools):
    first, second, _ = three
    second.agent._pool._serving.fetching.serve = lambda *given: time.sleep(3)
    began = time.monotonic()
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1", "deadline_ms": 300})
    assert first.agent.waits(ROOM)
    tools.until(lambda: not first.agent.waits(ROOM))
    assert time.monotonic() - began < 2
    assert first.ask([*TOKENS, 99]) == 0
    tools.until(lambda: counters(first)["open_fetches"] == 0)


def test_a_request_that_is_gone_waits_no_longer(three):

    first, second, _ = three
    second.agent._pool._serving.fetching.serve = lambda *given: time.sleep(1)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1", "deadline_ms": 60_000})
    first.agent.released(SimpleNamespace(bootstrap_room=ROOM))
    assert not first.agent.waits(ROOM)
    assert counters(first)["open_fetches"] == 0
