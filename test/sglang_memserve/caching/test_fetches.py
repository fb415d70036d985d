"""A prefix that another instance has is fetched for a request that carries a hint."""

import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.fetch_hint import FetchHint
from sglang_memserve.caching.fetches import Fetches

TOKENS = list(range(1, 25))
ROOM = 7


@pytest.fixture
def three(make_instance):
    """Two that prefill, of which the second has seen TOKENS, and one that decodes."""
    first, second = make_instance("p0", "prefill"), make_instance("p1", "prefill")
    decode = make_instance("d0", "decode")
    first.meet(second)
    first.meet(decode)
    second.meet(decode)
    second.finish(TOKENS)
    return first, second, decode


def counters(instance):
    return instance.agent.counters()


def stand_still(instance):
    """From now on it answers nothing that it is asked, until the event is set."""
    fetching, go_on = instance.agent._pool._exchange.fetching, threading.Event()
    fetching.answer, answer = lambda *given: go_on.wait(20) and answer(*given), fetching.answer
    return go_on


def holds(instance):
    return {name: value for name, value in counters(instance).items() if name.startswith("holds")}


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("asks", [0, 2])
def test_the_hinted_prefix_is_here_when_the_request_is_scheduled(three, tools, asks, custom):
    asking = three[asks]
    asking.arrive(ROOM, [*TOKENS, 99], {"from": "p1", "deadline_ms": 10_000}, custom=custom)
    assert asking.agent.waits_for_fetch(ROOM) or counters(asking)["fetches_completed"]
    tools.until(lambda: not asking.agent.waits_for_fetch(ROOM))
    assert counters(asking)["fetches_completed"] == 1
    assert counters(asking)["fetched_blocks"] == 6
    assert asking.ask([*TOKENS, 99]) == 24
    assert asking.holds(TOKENS)
    assert asking.everything_is_accounted_for()


def test_what_decode_computed_comes_to_prefill(three, tools):
    first, _, decode = three
    tools.answered(decode, None, TOKENS[:8], [*TOKENS[8:], 99, 99])
    tools.until(lambda: decode.agent.tick() or counters(decode).get("dram_blocks") == 6)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "d0", "deadline_ms": 10_000})
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*TOKENS, 99]) == 24
    assert first.holds(TOKENS)


def test_kv_in_the_sources_hbm_comes_where_the_hint_counts_tokens(three, tools):
    first, second, _ = three
    longer = [*TOKENS, *range(50, 66)]
    second.compute(longer)
    hint = {"from": "p1", "deadline_ms": 10_000}
    first.arrive(ROOM, [*longer, 99], hint)
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*longer, 99]) == len(TOKENS)
    first.arrive(ROOM, [*longer, 99], hint | {"tokens": len(longer)})
    tools.until(lambda: second.agent.tick() or not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*longer, 99]) == len(longer)
    assert first.holds(longer)
    tools.until(lambda: second.agent.tick() or second.everything_is_accounted_for())
    assert counters(second)["hbm_publish_requests"] == 1


def test_nobody_waits_for_more_than_the_source_has(three, tools):
    first, second, _ = three
    unknown = list(range(500, 520))
    first.arrive(ROOM, [*unknown, 99], {"from": "p1", "deadline_ms": 50_000, "tokens": 20})
    tools.until(lambda: second.agent.tick() or not first.agent.waits_for_fetch(ROOM))
    assert counters(first)["fetches_found_nothing"] == 1


def listed(*names, **each):
    return {"from": [{"instance": name, **each} for name in names], "deadline_ms": 10_000}


def test_a_prefix_comes_in_parts_from_all_that_the_hint_names(three, tools, make_instance):
    first, second, _ = three
    third = make_instance("p2", "prefill")
    first.meet(third)
    third.finish(TOKENS)
    first.arrive(ROOM, [*TOKENS, 99], listed("p1", "p2", "p0"))
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*TOKENS, 99], req=tools.asked([*TOKENS, 99], ROOM)) == 24
    assert first.holds(TOKENS)
    counted = counters(first)
    assert counted["fetched_tokens_from"] == {"several": 24}
    assert (counted["fetches_completed"], counted["fetched_blocks"]) == (1, 6)
    sent = [counters(source)["kv_bytes_sent_from_dram"] for source in (second, third)]
    assert sent == [3 * first.buffers().layout.block_bytes] * 2
    assert first.everything_is_accounted_for()


def test_a_source_that_is_gone_costs_its_part_and_the_rest_is_computed(three, tools, make_instance):
    first, _, _ = three
    third = make_instance("p2", "prefill")
    first.meet(third)
    third.finish(TOKENS)
    go_on = stand_still(third)
    first.arrive(ROOM, [*TOKENS, 99], listed("p1", "p2"))
    tools.until(lambda: first.agent._pool.counters()["fetching"] == 1)
    first.agent._pool._cluster.forget("p2", None)
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*TOKENS, 99], req=tools.asked([*TOKENS, 99], ROOM)) == 12
    assert first.holds(TOKENS[:12])
    assert sources(counters(first)) == {"from_hbm": 0, "from_dram": 0, "fetched": 12, "computed": 13}
    assert holds(first) == {"holds": 1, "holds_completed": 1}
    go_on.set()
    tools.until(first.everything_is_accounted_for)


def test_several_sources_send_what_their_hbm_has(three, tools):
    first, second, decode = three
    longer = [*TOKENS, *range(50, 66)]
    second.compute(longer)
    decode.compute(longer)
    first.arrive(ROOM, [*longer, 99], listed("p1", "d0", tokens=len(longer)))
    others = (second, decode)
    tools.until(lambda: [each.agent.tick() for each in others] and not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*longer, 99]) == len(longer)
    assert first.holds(longer)
    tools.until(
        lambda: (
            [each.agent.tick() for each in others]
            and all(each.everything_is_accounted_for() for each in others)
        )
    )


def test_sources_that_have_nothing_are_counted_as_that(three, tools):
    first, _, _ = three
    unknown = list(range(500, 520))
    first.arrive(ROOM, [*unknown, 99], listed("p1", "d0"))
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert counters(first)["fetches_found_nothing"] == 1


def test_kv_that_is_here_is_not_fetched(three):
    first, _, _ = three
    first.compute(TOKENS)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1"})
    assert "fetches_started" not in counters(first)


@pytest.mark.parametrize(
    "hint",
    [
        {"from": "p1", "role": "decode"},
        {"from": "p0"},
        {"deadline_ms": 5},
        {"from": "p1", "deadline_ms": -1},
        {"from": []},
        {"from": [{"instance": "p0"}]},
        {"from": [{"instance": "p1", "tokens": 0}]},
        {"from": [{"instance": "p1", "bandwidth": -1.0}]},
        {"from": [{"instance": f"p{n}"} for n in range(1, 10)]},
        {},
    ],
)
def test_a_hint_for_others_or_without_sense_holds_no_request(three, hint):
    first, _, _ = three
    first.arrive(ROOM, [*TOKENS, 99], hint)
    assert not first.agent.waits_for_fetch(ROOM)
    assert "fetches_started" not in counters(first)


def test_actions_of_others_are_left_alone(three):
    first, _, _ = three
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1"}, action="somebody.elses")
    assert not first.agent.waits_for_fetch(ROOM)


def test_a_source_that_has_nothing_or_is_not_known_costs_no_time(three, tools):
    first, _, _ = three
    first.arrive(ROOM, list(range(500, 530)), {"from": "p1", "deadline_ms": 60_000})
    first.arrive(ROOM + 1, [*TOKENS, 99], {"from": "nobody", "deadline_ms": 60_000})
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM) and not first.agent.waits_for_fetch(ROOM + 1))
    assert counters(first)["fetches_found_nothing"] == 1
    assert counters(first)["fetches_failed_PeerDied"] == 1
    assert holds(first) == {"holds": 2, "holds_found_nothing": 1, "holds_failed": 1}


def test_a_source_that_stands_still_costs_the_deadline_and_no_more(three, tools):
    first, second, _ = three
    go_on = stand_still(second)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1", "deadline_ms": 300})
    assert first.agent.waits_for_fetch(ROOM)
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert first.ask([*TOKENS, 99]) == 0
    tools.until(lambda: counters(first)["open_fetches"] == 0)
    assert holds(first) == {"holds": 1, "holds_deadline": 1}
    assert counters(first)["hold_seconds"] == pytest.approx(0.3)
    go_on.set()


def test_a_request_that_is_gone_waits_no_longer(three, tools):
    first, second, _ = three
    go_on = stand_still(second)
    first.arrive(ROOM, [*TOKENS, 99], {"from": "p1", "deadline_ms": 60_000})
    first.agent.requests.on_release(SimpleNamespace(bootstrap_room=ROOM, rid="request"), finished=False)
    assert not first.agent.waits_for_fetch(ROOM)
    assert counters(first)["open_fetches"] == 0
    assert holds(first) == {"holds": 1, "holds_gone": 1}
    # What comes for it after that is nobody's.
    go_on.set()
    tools.until(lambda: counters(first).get("fetches_completed"))
    assert holds(first) == {"holds": 1, "holds_gone": 1}


def test_each_token_of_a_prompt_has_one_source(three, tools):
    first, _, _ = three
    prompt = [*TOKENS, 99]
    first.finish(TOKENS[:12])
    first.evict_all()
    first.compute(TOKENS[:4])
    first.arrive(ROOM, prompt, {"from": "p1", "deadline_ms": 10_000})
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    assert first.ask(prompt, req=tools.asked(prompt, ROOM)) == 24
    counted = counters(first)
    assert sources(counted) == {"from_hbm": 4, "from_dram": 8, "fetched": 12, "computed": 1}
    assert counted["fetched_tokens_from"] == {"p1": 12}
    # Three blocks were here already.
    assert counted["fetch_bytes"] == 3 * first.buffers().layout.block_bytes
    assert counted["fetch_seconds"] > 0
    assert holds(first) == {"holds": 1, "holds_completed": 1}


def test_what_was_fetched_for_another_comes_from_dram(three, tools):
    first, _, _ = three
    prompt = [*TOKENS, 99]
    first.arrive(ROOM, prompt, {"from": "p1", "deadline_ms": 10_000})
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    first.ask(prompt, req=tools.asked(prompt, ROOM + 1))
    assert sources(counters(first)) == {"from_hbm": 0, "from_dram": 24, "fetched": 0, "computed": 1}


def test_what_was_evicted_before_it_was_used_was_computed(three, tools):
    first, _, _ = three
    prompt = [*TOKENS, 99]
    first.compute(TOKENS[:4])
    first.arrive(ROOM, prompt, {"from": "p1", "deadline_ms": 10_000})
    tools.until(lambda: not first.agent.waits_for_fetch(ROOM))
    first.ask(prompt, req=tools.asked(prompt, ROOM, cached=12))
    assert sources(counters(first)) == {"from_hbm": 4, "from_dram": 0, "fetched": 8, "computed": 13}


def test_what_was_evicted_after_it_came_from_dram_was_computed(three, tools):
    _, second, _ = three
    second.evict_all()
    second.ask(TOKENS, req=tools.asked(TOKENS, ROOM, cached=8))
    assert sources(counters(second)) == {"from_hbm": 0, "from_dram": 8, "fetched": 0, "computed": 16}


def test_a_request_that_was_scheduled_at_its_deadline_did_not_go_away():
    """The source may still be sending then."""
    start = SimpleNamespace(fetch=lambda *given, **how: Future())
    local = SimpleNamespace(layout=SimpleNamespace(page_size=4))
    counts = Counters()
    fetches = Fetches(SimpleNamespace(start=start, local=local), lambda: None, counts)
    fetches.start(ROOM, FetchHint("p1", deadline_ms=1), np.array(TOKENS, dtype=np.int32), "", 0)
    while fetches.waits(ROOM):
        time.sleep(0.001)
    fetches.forget(ROOM)
    counted = counts.read()
    assert counted["holds_deadline"] == 1
    assert "holds_gone" not in counted
    assert counted["hold_seconds"] == pytest.approx(0.001)


def test_decode_counts_its_own_cache_and_not_prefills(three, tools):
    _, _, decode = three
    prompt = [*TOKENS, 99]
    decode.compute(TOKENS[:8])
    decode.ask(prompt, req=tools.asked(prompt, ROOM, cached=24))
    assert sources(counters(decode)) == {"from_hbm": 8, "from_dram": 0, "fetched": 0, "received": 17}


def sources(counted):
    prefix = "prompt_tokens_"
    return {name.removeprefix(prefix): value for name, value in counted.items() if name.startswith(prefix)}
