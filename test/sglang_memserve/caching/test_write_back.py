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
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
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
    swapped_out = 6 if decode.agent._config.publishes else 4
    assert counters(decode)["swap_out_bytes"] == swapped_out * prefill.buffers().layout.block_bytes
    for instance, kind in ((decode, "write_back"), (decode, "swap_out"), (prefill, "swap_in")):
        assert 0 < counters(instance)[f"{kind}_seconds"] < 10
    for instance in pair:
        assert instance.everything_is_accounted_for()


def test_a_turn_that_is_here_before_the_answer_waits_for_it(pair, tools):
    prefill, decode = pair
    first = prefill.arrive(ROOM, PROMPT, None)
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    following = prefill.arrive(ROOM + 1, PROMPT + ANSWER + PROMPT, None)
    assert [prefill.agent.waits_for_write_back(req) for req in (first, following)] == [False, True]
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert not prefill.agent.waits_for_write_back(following)


def test_an_answer_that_prefill_has_already_is_counted(pair, tools):
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    prefill.compute([*PROMPT, *ANSWER[:6]])
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole)
    decode.agent.introduce(ROOM + 1, prefill.agent.prefill_origin)
    tools.answered(decode, ROOM + 1, PROMPT, ANSWER)
    arrive(prefill, decode, tools, count=2)
    assert counters(prefill)["write_backs_present"] == 1
    assert prefill.everything_is_accounted_for()


def test_an_answer_without_its_prompt_is_not_taken(pair, tools):
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
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
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER, theirs)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole, theirs)
    assert prefill.known(whole) == 8


def test_old_kv_makes_room_and_kv_in_use_does_not(make_instance, tools):
    prefill, decode = make_instance("p", "prefill", pages=6), make_instance("d", "decode")
    prefill.compute(PROMPT[:8])
    prefill.compute(list(range(500, 516)))
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    assert prefill.holds(whole)
    assert prefill.everything_is_accounted_for()

    small = make_instance("q", "prefill", pages=6)
    small.compute(PROMPT[:8])
    in_use = small.tree.lock(small.compute(list(range(500, 516))))
    decode.agent.introduce(ROOM + 1, small.agent.prefill_origin)
    tools.answered(decode, ROOM + 1, PROMPT, ANSWER)
    tools.until(lambda: small.agent.tick() or counters(small).get("write_backs_full"))
    assert small.known(PROMPT[:8]) == 8
    small.tree.unlock(in_use)
    assert small.everything_is_accounted_for()


def test_pages_are_held_until_they_are_copied_and_no_longer(pair, tools):
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    decode.agent._offloader._copy, real = (
        lambda *_: hold.wait(10) and real(*_),
        decode.agent._offloader._copy,
    )

    hold = threading.Event()
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    assert decode.tree.full_evictable_size() == 0
    hold.set()
    arrive(prefill, decode, tools)
    assert decode.tree.full_evictable_size() == 24


def test_a_flush_before_the_copy_drops_the_answer(pair, tools):
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)

    hold, write_back = threading.Event(), decode.agent._offloader
    write_back._copy, real = lambda *given: hold.wait(10) and real(*given), write_back._copy
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    decode.tree.reset()
    decode.allocator.clear()
    hold.set()
    tools.until(lambda: counters(decode).get("write_backs_dropped_flushed"))
    decode.agent.tick()
    assert decode.everything_is_accounted_for()
    assert not counters(prefill).get("write_backs_inserted")


@pytest.mark.parametrize("why", ["aborted", "multimodal", "no room known"])
def test_kv_without_an_answer_is_not_sent(pair, tools, why):

    prefill, decode = pair
    if why != "no room known":
        decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    how = {"aborted": {"reason": FINISH_ABORT("gone")}, "multimodal": {"multimodal": object()}}.get(why, {})
    tools.answered(decode, ROOM, PROMPT, ANSWER, **how)
    assert not counters(decode).get("write_backs_offered")
    tools.until(lambda: decode.agent.tick() or decode.everything_is_accounted_for())


def test_a_dead_prefill_costs_the_write_back_alone(pair, make_instance, tools):
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    prefill.close()
    prefill.close = lambda: None
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: any("failed" in name for name in counters(decode)))
    decode.agent.tick()
    assert decode.everything_is_accounted_for()

    again = make_instance("p", "prefill")
    again.compute(PROMPT[:8])
    decode.agent.introduce(ROOM + 1, again.agent.prefill_origin)
    whole = tools.answered(decode, ROOM + 1, PROMPT, ANSWER)
    tools.until(lambda: again.agent.tick() or again.holds(whole))


def test_a_request_that_ends_without_an_answer_leaves_no_room_behind(pair, tools):

    prefill, decode = pair
    for room in range(5):
        decode.agent.introduce(room, prefill.agent.prefill_origin)
    for room in range(5):
        decode.agent.requests.on_release(SimpleNamespace(bootstrap_room=room, rid="request"), finished=False)
    assert len(decode.agent._origins) == 0


def test_an_answer_from_before_a_flush_is_not_taken(pair, tools):
    """Prefill's weights may be others since."""
    prefill, decode = pair
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    prefill.tree.reset()
    prefill.allocator.clear()
    prefill.compute(PROMPT[:8])
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: prefill.agent.tick() or counters(prefill).get("write_backs_flushed"))
    assert prefill.known([*PROMPT, *ANSWER][:24]) == 8
    tools.until(lambda: prefill.agent.tick() or prefill.everything_is_accounted_for())


def test_an_answer_for_an_old_incarnation_is_not_taken(pair, tools, caplog):
    """Prefill stood still, was declared dead, and begins anew with what decode had sent not yet looked at."""
    prefill, decode = pair
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: decode.agent.tick() or counters(decode).get("write_backs_sent"))
    old = prefill.agent._pool.info.incarnation
    prefill.agent._pool._cluster.fenced(old, old + 1)
    prefill.agent.tick()
    assert counters(prefill)["write_backs_stale"] == 1
    assert prefill.known([*PROMPT, *ANSWER][:24]) == 8
    assert not caplog.records


def test_the_next_turn_shows_whether_the_answer_has_its_ids(make_instance, tools):
    texts = {**{token: chr(token) for token in range(1, 120)}, 120: chr(100) + chr(101)}
    prefill = make_instance("p", "prefill", decode=lambda ids: "".join(texts[token] for token in ids))
    decode = make_instance("d", "decode")
    prefill.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, prefill.agent.prefill_origin)
    tools.answered(decode, ROOM, PROMPT, ANSWER)
    arrive(prefill, decode, tools)
    prefill.ask([*PROMPT, *ANSWER, 5])
    tools.until(lambda: counters(prefill).get("answers_found_again") == 1)
    prefill.ask([*PROMPT, 120, *ANSWER[2:], 5])
    tools.until(lambda: counters(prefill).get("answers_reencoded") == 1)
    prefill.ask([*PROMPT, 50, *ANSWER[2:], 5])
    # Compared in their order: when this one is counted, the one before it counted nothing.
    prefill.ask([*PROMPT, *ANSWER, 5])
    tools.until(lambda: counters(prefill).get("answers_found_again") == 2)
    assert counters(prefill)["answers_reencoded"] == 1
