"""The open loop: nothing the server does changes when sessions begin, and turns wait for their answers."""

import asyncio
import time

import pytest

from sglang_memserve.bench.serving.replay import Replay, replay


async def run(workload, client, new, limit_s=20.0):
    seen = []
    result = await replay(workload, client, new, seen.append, limit_s)
    assert seen == result.records
    return result


async def test_sessions_begin_on_time_however_slow_the_server(engine, client, conversing, dialogue):
    engine.first_s = 0.4
    arrivals = [n / 100 for n in range(25)]
    result = await run(dialogue(*arrivals), client, conversing())
    # One after the other, they would take 10 s.
    assert result.seconds < 5
    assert sorted(record.planned for record in result.records) == arrivals
    assert max(record.late for record in result.records) < 0.5
    assert all(record.answer for record in result.records)


async def test_a_session_is_not_begun_before_its_time(client, conversing, dialogue):
    result = await run(dialogue(0.1), client, conversing())
    assert result.records[0].sent >= 0.1


async def test_the_next_prompt_holds_the_tokens_of_the_answer(engine, client, conversing, dialogue):
    turns = [dialogue.turn(10), dialogue.turn(2), dialogue.turn(4)]
    await run(dialogue(0.0, turns=turns), client, conversing())
    first, second, third = (body["input_ids"] for body in engine.bodies)
    assert first == list(turns[0].tokens)
    # The mock's answer begins with the prompt's length.
    assert second == [*first, 10, 11, 12, *turns[1].tokens]
    assert third == [*second, 15, 16, 17, *turns[2].tokens]


async def test_the_next_prompt_holds_the_text_of_the_answer(engine, client, conversing, dialogue):
    turns = [dialogue.turn(text="first"), dialogue.turn(text="second")]
    await run(dialogue(0.0, turns=turns), client, conversing("completions"))
    assert [body["prompt"] for body in engine.bodies] == ["first", "first 5 6 7second"]
    await run(dialogue(0.0, turns=turns), client, conversing("chat"))
    assert engine.bodies[3]["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": " 5 6 7"},
        {"role": "user", "content": "second"},
    ]


async def test_texts_go_over_generate_with_the_names_of_their_sessions(engine, client, conversing, dialogue):
    turns = [dialogue.turn(text="first"), dialogue.turn(text="second")]
    await run(dialogue(0.0, turns=turns), client, conversing("generate-text", names_sessions=True))
    asked = [(body["text"], body["routing_key"]) for body in engine.bodies]
    assert asked == [("first", "s0"), ("first 5 6 7second", "s0")]
    assert not any("input_ids" in body for body in engine.bodies)
    await run(dialogue(0.0, turns=turns), client, conversing())
    assert not any("routing_key" in body for body in engine.bodies[2:])


async def test_a_turn_waits_for_the_answer_before_it_and_then_its_pause(engine, client, conversing, dialogue):
    engine.first_s, engine.gap_s = 0.1, 0.02
    turns = [dialogue.turn(), dialogue.turn(after=0.1)]
    first, second = (await run(dialogue(0.0, turns=turns), client, conversing())).records
    assert second.planned == pytest.approx(first.sent + first.answer.end + 0.1)
    assert second.sent >= second.planned


async def test_other_sessions_go_on_while_one_waits(engine, client, conversing, dialogue):
    engine.first_s = 0.3
    result = await run(dialogue(0.0, 0.05, turns=[dialogue.turn()] * 3), client, conversing())
    assert [(r.session, r.turn) for r in result.records] == [(s, t) for t in (1, 2, 3) for s in ("s0", "s1")]


@pytest.mark.parametrize("status", [500, 200])
async def test_a_failure_ends_its_session_and_no_other(engine, client, conversing, dialogue, status):
    engine.fails = {0: status}
    result = await run(dialogue(0.0, 0.1, turns=[dialogue.turn()] * 3), client, conversing())
    failed = [record for record in result.records if record.error]
    assert [(record.session, record.turn) for record in failed] == [("s0", 1)]
    assert sum(record.session == "s1" and record.answer is not None for record in result.records) == 3
    assert (result.planned, result.unsent) == (6, 2)


async def test_what_is_not_answered_when_the_run_ends_has_failed(engine, client, conversing, dialogue):
    engine.first_s = 4.0
    result = await run(
        dialogue(0.0, 0.1, 30.0, turns=[dialogue.turn()] * 2), client, conversing(), limit_s=0.5
    )
    assert result.seconds < 3
    assert [record.error for record in result.records] == ["no answer when the run ended after 0.5 s"] * 2
    assert result.unsent == 4


async def test_a_run_can_be_cancelled(engine, client, conversing, dialogue):
    engine.first_s = 4.0
    task = asyncio.create_task(run(dialogue(0.0), client, conversing()))
    while not engine.bodies:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 2


async def test_a_cancelled_run_keeps_what_was_answered_before(engine, client, conversing, dialogue):
    engine.first_s = 0.05
    sending = Replay(dialogue(0.0, 0.3, 30.0), client, conversing(), lambda _: None, limit_s=20.0)
    task = asyncio.create_task(sending.run())
    while len(sending.records) < 1:
        await asyncio.sleep(0.01)
    engine.first_s = 9.0
    while len(engine.bodies) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = sending.result()
    assert [record.error for record in result.records] == [
        None,
        "no answer when the benchmark was interrupted",
    ]
    assert (result.planned, result.unsent) == (3, 1)
