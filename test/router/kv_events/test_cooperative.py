"""Long work on the event loop."""

import asyncio
import time

import pytest

from router.kv_events.cooperative import CooperativeRunner


async def test_long_work_lets_others_go_first():
    turns, rounds, began = CooperativeRunner(), [], []

    def steps(name):
        began.append(name)
        for _ in range(20):
            time.sleep(0.0003)
            yield

    async def others():
        while True:
            rounds.append(len(rounds))
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    works = [asyncio.create_task(turns.work(steps(name))) for name in "ab"]
    await works[0]
    assert began == ["a", "b"]
    assert len(rounds) >= 15
    await works[1]
    beside.cancel()


async def test_work_that_raises_does_not_stop_other_work():
    turns = CooperativeRunner()

    def fails():
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await turns.work(fails())
    await asyncio.wait_for(turns.work(iter([None])), 1)
