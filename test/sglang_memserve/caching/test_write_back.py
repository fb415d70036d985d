"""An answer that decode computed is in prefill's tree for the next turn."""

import threading
from types import SimpleNamespace

import pytest
from sglang.srt.managers.schedule_batch import FINISH_ABORT

PROMPT, ANSWER = list(range(1, 11)), list(range(100, 115))
ROOM = 7


@pytest.fixture(params=[("rust", "64 blocks"), ("python", "64 blocks"), ("rust", "0")], ids=str)
def pair(make_instance, request):
    core, dram = request.param
    return (
        make_instance("p", "prefill", core=core, dram=dram),
        make_instance("d", "decode", core=core, dram=dram),
    )


def counters(instance):
    return instance.agent.counters()


def arrive(prefill, decode, tools, count=1):
    """Ticks both until so many write-backs have ended at prefill."""

    def ended():
        decode.agent.tick()
        prefill.agent.tick()
        names = ("inserted", "present", "gap", "full", "failed")
        return sum(counters(prefill).get(f"write_backs_{name}", 0) for name in names) == count

    tools.until(ended)
    tools.until(lambda: counters(decode).get("write_backs_sent") == count)
    decode.agent.tick()


def test_the_answer_is_where_the_next_turn_looks_for_it(pair, tools):
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole)
    assert len(whole) == 24
    assert counters(prefill)["write_backs_inserted"] == 1
    # The prompt's whole pages are prefill's already, and are not sent.
    assert counters(decode)["kv_bytes_sent_from_dram"] == 4 * prefill.buffers().layout.block_bytes
    assert counters(decode)["write_back_bytes"] == 4 * prefill.buffers().layout.block_bytes
    assert counters(prefill)["swap_in_bytes"] == 4 * prefill.buffers().layout.block_bytes
    # To DRAM goes what it lacks: the prompt too, where it is a tier.
    swapped_out = 6 if decode.agent._publishes else 4
    assert counters(decode)["swap_out_bytes"] == swapped_out * prefill.buffers().layout.block_bytes
    for instance, kind in ((decode, "write_back"), (decode, "swap_out"), (prefill, "swap_in")):
        assert 0 < counters(instance)[f"{kind}_seconds"] < 10
    for instance in pair:
        assert instance.everything_is_accounted_for()


def test_a_turn_that_is_here_before_the_answer_waits_for_it(pair, tools):
    prefill, decode = pair
    first = prefill.arrive(ROOM, PROMPT, None)
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    following = prefill.arrive(ROOM + 1, PROMPT + ANSWER + PROMPT, None)
    assert [prefill.agent.awaits(req) for req in (first, following)] == [False, True]
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert not prefill.agent.awaits(following)


def test_what_prefill_has_already_is_no_trouble(pair, tools):
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    prefill.compute([*PROMPT, *ANSWER[:6]])
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole)
    decode.agent.introduce(ROOM + 1, prefill.agent.prefilled)
    tools.answered(decode, ROOM + 1, PROMPT, ANSWER)
    arrive(prefill, decode, tools, count=2)
    assert counters(prefill)["write_backs_present"] == 1
    assert prefill.everything_is_accounted_for()


def test_without_the_prompt_there_is_nothing_to_join_it_to(pair, tools):
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert counters(prefill)["write_backs_gap"] == 1
    assert prefill.known(PROMPT[:8]) == 0
    assert prefill.everything_is_accounted_for()


@pytest.mark.parametrize("field", ["extra_key", "cache_salt"])
def test_namespaces_stay_apart(pair, tools, field):
    prefill, decode = pair
    theirs = tools.Namespace(None, None)._replace(**{field: "tenant"})
    prefill.compute(PROMPT[:8], theirs)
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER, theirs)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole, theirs)
    assert prefill.known(whole) == 8


def test_old_kv_makes_room_and_kv_in_use_does_not(make_instance, tools):
    prefill, decode = make_instance("p", "prefill", pages=6), make_instance("d", "decode")
    prefill.compute(PROMPT[:8])
    prefill.compute(list(range(500, 516)))
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole)
    assert prefill.everything_is_accounted_for()

    small = make_instance("q", "prefill", pages=6)
    small.compute(PROMPT[:8])
    in_use = small.tree.lock(small.compute(list(range(500, 516))))
    decode.agent.introduce(ROOM + 1, small.agent.prefilled)
    tools.answered(decode, ROOM + 1, PROMPT, ANSWER)
    tools.until(lambda: small.agent.tick() or counters(small).get("write_backs_full"))
    assert small.known(PROMPT[:8]) == 8
    small.tree.unlock(in_use)
    assert small.everything_is_accounted_for()


def test_pages_are_held_until_they_are_copied_and_no_longer(pair, tools):
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    decode.agent._outgoing._copied, real = (
        lambda *_: hold.wait(10) and real(*_),
        decode.agent._outgoing._copied,
    )

    hold = threading.Event()
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    assert decode.tree.full_evictable_size() == 0
    hold.set()
    arrive(prefill, decode, tools)
    assert decode.tree.full_evictable_size() == 24


def test_a_flush_between_drops_what_may_be_somebody_elses_by_now(pair, tools):
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)

    hold, write_back = threading.Event(), decode.agent._outgoing
    write_back._copied, real = lambda *given: hold.wait(10) and real(*given), write_back._copied
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    decode.tree.reset()
    decode.allocator.clear()
    hold.set()
    tools.until(lambda: counters(decode).get("write_backs_dropped_flushed"))
    decode.agent.tick()
    assert decode.everything_is_accounted_for()
    assert not counters(prefill).get("write_backs_inserted")


@pytest.mark.parametrize("why", ["aborted", "multimodal", "no room known"])
def test_what_is_no_answer_is_not_sent(pair, tools, why):

    prefill, decode = pair
    if why != "no room known":
        decode.agent.introduce(ROOM, prefill.agent.prefilled)
    how = {"aborted": {"reason": FINISH_ABORT("gone")}, "multimodal": {"multimodal": object()}}.get(why, {})
    tools.answered(decode, ROOM, PROMPT, ANSWER, **how)
    assert not counters(decode).get("write_backs_offered")
    tools.until(lambda: decode.agent.tick() or decode.everything_is_accounted_for())


def test_a_dead_prefill_costs_an_answer_its_way_back_and_nothing_else(pair, make_instance, tools):
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    prefill.close()
    prefill.close = lambda: None
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: any("failed" in name for name in counters(decode)))
    decode.agent.tick()
    assert decode.everything_is_accounted_for()

    again = make_instance("p", "prefill")
    again.compute(PROMPT[:8])
    decode.agent.introduce(ROOM + 1, again.agent.prefilled)
    whole = tools.answered(decode, ROOM + 1, PROMPT, ANSWER)
    tools.until(lambda: again.agent.tick() or again.holds(whole))


def test_a_request_that_ends_without_an_answer_leaves_no_room_behind(pair, tools):

    prefill, decode = pair
    for room in range(5):
        decode.agent.introduce(room, prefill.agent.prefilled)
    for room in range(5):
        decode.agent.released(SimpleNamespace(bootstrap_room=room, rid="request"))
    assert not decode.agent._rooms


def test_an_answer_from_before_a_flush_is_not_taken(pair, tools):
    """Prefill's weights may be others since."""
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    prefill.tree.reset()
    prefill.allocator.clear()
    prefill.compute(PROMPT[:8])
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: prefill.agent.tick() or counters(prefill).get("write_backs_flushed"))
    assert prefill.known([*PROMPT, *ANSWER][:24]) == 8
    tools.until(lambda: prefill.agent.tick() or prefill.everything_is_accounted_for())


def test_an_answer_for_an_incarnation_that_is_no_more_is_not_taken(pair, tools, caplog):
    """Prefill stood still, was declared dead, and begins anew with what decode had sent not yet looked at."""
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: decode.agent.tick() or counters(decode).get("write_backs_sent"))
    old = prefill.agent._pool.info.incarnation
    prefill.agent._pool._cluster.fenced(old, old + 1)
    prefill.agent.tick()
    assert counters(prefill)["write_backs_stale"] == 1
    assert prefill.known([*PROMPT, *ANSWER][:24]) == 8
    assert not caplog.records


def test_a_next_turn_tells_whether_the_answer_came_back_by_its_ids(make_instance, tools):
    texts = {**{token: chr(token) for token in range(1, 120)}, 120: chr(100) + chr(101)}
    prefill = make_instance("p", "prefill", decode=lambda ids: "".join(texts[token] for token in ids))
    decode = make_instance("d", "decode")
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefilled)
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    prefill.ask([*PROMPT, *ANSWER, 5])
    assert counters(prefill)["answers_found_again"] == 1
    prefill.ask([*PROMPT, 120, *ANSWER[2:], 5])
    assert counters(prefill)["answers_reencoded"] == 1
    prefill.ask([*PROMPT, 50, *ANSWER[2:], 5])
    assert counters(prefill)["answers_reencoded"] + counters(prefill)["answers_found_again"] == 2
