"""/health_generate: a real request."""

import asyncio
import json

from router.http.generate_probe import GenerateProbe


async def health_generate(cluster):
    async with cluster.session.get(cluster.url + "/health_generate") as response:
        return response.status, json.loads(await response.read())


async def test_it_generates_on_both_halves_of_a_pair(pd):
    assert await health_generate(pd) == (200, {"status": "ok"})
    for mock in (pd.p, pd.d):
        assert [seen[0] for seen in mock.seen] == ["/generate"]
        assert mock.seen[0][2]["Content-Type"] == "application/json"
    assert pd.p.bodies[0]["bootstrap_room"] == pd.d.bodies[0]["bootstrap_room"]
    # The first token is prefill's: one alone would prove nothing about decode.
    assert pd.d.bodies[0]["sampling_params"]["max_new_tokens"] == 2


async def test_a_failure_is_503_with_the_reason(pd):
    pd.d.refusal = (500, b"{}")
    status, answer = await health_generate(pd)
    assert status == 503
    assert pd.d.url in answer["error"]["message"]


async def test_an_answer_without_text_is_a_failure(pd):
    pd.d.answer = b'{"nothing": 1}'
    status, answer = await health_generate(pd)
    assert status == 503
    assert "nothing" in answer["error"]["message"]


async def test_the_probe_ends_at_its_deadline_and_aborts_its_request(start):
    cluster = await start(prefill=1, decode=1, health_generate_timeout_secs=0.2)
    cluster.decode[0].hold = True
    status, answer = await health_generate(cluster)
    assert status == 503
    assert "0.2 s" in answer["error"]["message"]
    await cluster.decode[0].aborted.wait()


async def test_however_many_ask_one_request_answers_them(pd, monkeypatch):
    run, asked = GenerateProbe.run, 0

    async def counted(probe, request):
        nonlocal asked
        asked += 1
        await run(probe, request)

    monkeypatch.setattr(GenerateProbe, "run", counted)
    pd.d.hold = True
    asking = [asyncio.create_task(health_generate(pd)) for _ in range(5)]
    await pd.d.arrived.wait()
    while asked < 5:
        await asyncio.sleep(0.01)
    asking[0].cancel()
    pd.d.release.set()
    assert [(await answer)[0] for answer in asking[1:]] == [200] * 4
    assert len(pd.d.seen) == 1
