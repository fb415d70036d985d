"""What load a running system gets that nobody chose one for."""

import json

import pytest

from sglang_memserve.bench.serving import pace
from sglang_memserve.bench.serving.arms import Arm
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.bench.serving.options import CPU_LOAD, GPU_LOAD, BenchOptions

OPTIONS = BenchOptions(urls=["a=http://x:1"])


@pytest.fixture
def load_for():
    async def choose(*mocks, options=OPTIONS):
        arms = [Arm(f"arm-{number}", "", "running", url=mock.url) for number, mock in enumerate(mocks)]
        async with open_session() as session:
            return await pace.load_for(options, arms, session)

    return choose


def reports(mock, **info):
    mock.pages["/server_info"] = json.dumps(info).encode()


@pytest.mark.parametrize(("device", "load"), [("cpu", CPU_LOAD), ("cuda", GPU_LOAD)])
async def test_a_server_is_believed_what_it_computes_on(engine, load_for, device, load):
    reports(engine, device=device)
    chosen, reason = await load_for(engine)
    assert chosen == load
    assert reason == f"arm-0 computes on {device}"
    assert engine.bodies == []


async def test_one_instance_without_a_gpu_is_enough_for_a_gentle_load(engine, load_for):
    reports(engine, prefill=[{"device": "cuda"}], decode=[{"device": "cpu"}])
    assert (await load_for(engine))[0] == CPU_LOAD


async def test_the_weakest_of_several_systems_decides(engines, load_for):
    fast, slow = await engines(), await engines()
    reports(fast, device="cuda")
    reports(slow, device="cpu")
    assert await load_for(fast, slow) == (CPU_LOAD, "arm-1 computes on cpu")


@pytest.mark.parametrize(("first_s", "load"), [(0.0, GPU_LOAD), (0.4, CPU_LOAD)])
@pytest.mark.parametrize("api", ["generate", "chat"])
async def test_a_server_that_reports_no_device_is_tried(engine, load_for, api, first_s, load, monkeypatch):
    monkeypatch.setattr(pace, "_QUICK_S", 0.3)
    engine.first_s = first_s
    chosen, reason = await load_for(engine, options=BenchOptions(urls=["a=http://x:1"], api=api))
    assert chosen == load
    assert "to the first token" in reason
    assert len(engine.bodies) == 2
    assert engine.bodies[0] != engine.bodies[1]


async def test_a_server_that_does_not_answer_gets_a_gentle_load(engine, load_for):
    engine.fails = {0: 500}
    assert (await load_for(engine))[0] == CPU_LOAD


async def test_token_ids_stay_within_the_vocabulary(engine, load_for):
    await load_for(engine, options=BenchOptions(urls=["a=http://x:1"], vocabulary=(10, 20)))
    assert {token for body in engine.bodies for token in body["input_ids"]} == set(range(10, 20))
