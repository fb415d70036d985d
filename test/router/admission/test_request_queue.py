"""Whose turn it is."""

import asyncio

import pytest
from waiting import eventually

from router.admission.request_queue import AdmissionQueue
from router.admission.token_bucket import TokenBucket
from router.errors import QueuedTooLong, TooManyRequests


class Runs:
    """Requests that go through a queue and end when they are let go."""

    def __init__(self, queue):
        self.queue, self.begun, self.tasks, self._ends = queue, [], {}, {}

    async def begin(self, *names):
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._run(name))
        await asyncio.sleep(0)

    async def end(self, name):
        self._ends[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _run(self, name):
        async with self.queue:
            self.begun.append(name)
            await self._ends[name].wait()


async def test_the_first_that_came_is_the_first_that_begins():
    runs = Runs(queue := AdmissionQueue(2, 3, 60))
    await runs.begin(*"abcde")
    assert (runs.begun, queue.in_flight, queue.waiting) == (["a", "b"], 2, 3)
    await runs.end("b")
    assert (runs.begun, queue.in_flight, queue.waiting) == (["a", "b", "c"], 2, 2)
    for name in "acde":
        await runs.end(name)
    assert (runs.begun, queue.in_flight, queue.waiting) == ([*"abcde"], 0, 0)


async def test_beyond_the_queue_is_429_and_what_runs_is_not_hurt():
    runs = Runs(queue := AdmissionQueue(1, 1, 60))
    await runs.begin("a", "b")
    with pytest.raises(TooManyRequests, match="--queue-size") as error:
        queue.check()
    assert (error.value.status, error.value.reason) == (429, "queue_full")
    await runs.begin("c")
    with pytest.raises(TooManyRequests):
        await runs.tasks["c"]
    await runs.end("a")
    await runs.end("b")
    assert runs.begun == ["a", "b"]


async def test_a_queue_of_no_size_lets_nobody_wait():
    runs = Runs(queue := AdmissionQueue(1, 0, 60))
    queue.check()
    await runs.begin("a", "b")
    with pytest.raises(TooManyRequests):
        queue.check()
    with pytest.raises(TooManyRequests):
        await runs.tasks["b"]
    await runs.end("a")
    queue.check()


async def test_whoever_waits_too_long_gets_408_and_its_place_is_free():
    runs = Runs(queue := AdmissionQueue(1, 1, 0.01))
    await runs.begin("a", "b")
    with pytest.raises(QueuedTooLong, match="--queue-timeout-secs") as error:
        await runs.tasks["b"]
    assert (error.value.status, queue.waiting, queue.in_flight) == (408, 0, 1)
    await runs.begin("c")
    await runs.end("a")
    await runs.end("c")
    assert runs.begun == ["a", "c"]


async def test_whoever_leaves_the_queue_frees_its_place():
    runs = Runs(queue := AdmissionQueue(1, 1, 60))
    await runs.begin("a", "b")
    runs.tasks["b"].cancel()
    await asyncio.wait([runs.tasks["b"]])
    assert queue.waiting == 0
    await runs.begin("c")
    await runs.end("a")
    assert runs.begun == ["a", "c"]
    await runs.end("c")
    assert queue.in_flight == 0


async def test_a_turn_that_comes_to_one_that_leaves_goes_to_the_next():
    runs = Runs(queue := AdmissionQueue(1, 2, 60))
    await runs.begin("a", "b", "c")
    runs._ends["a"].set()
    await asyncio.sleep(0)
    # Its turn has come, and it has not run yet.
    runs.tasks["b"].cancel()
    await asyncio.wait([runs.tasks["b"]])
    await eventually(lambda: runs.begun == ["a", "c"])
    await runs.end("c")
    assert (queue.in_flight, queue.waiting) == (0, 0)


async def test_without_a_limit_all_run():
    runs = Runs(queue := AdmissionQueue(None, 0, 60))
    queue.check()
    await runs.begin(*map(str, range(100)))
    assert queue.in_flight == 100
    queue.check()


async def test_a_rate_holds_what_has_no_token_back():
    runs = Runs(queue := AdmissionQueue(2, 5, 60, rate=1e-6))
    await runs.begin("a", "b", "c")
    await runs.end("a")
    await runs.end("b")
    assert (runs.begun, queue.in_flight, queue.waiting) == (["a", "b"], 0, 1)
    runs.tasks["c"].cancel()
    await asyncio.wait([runs.tasks["c"]])
    queue._refill.cancel()


async def test_a_rate_lets_the_next_begin_when_its_token_comes():
    runs = Runs(AdmissionQueue(2, 5, 60, rate=50))
    await runs.begin("a", "b", "c")
    await runs.end("a")
    await eventually(lambda: runs.begun == ["a", "b", "c"])


async def test_beyond_a_rate_without_a_queue_is_429():
    runs = Runs(AdmissionQueue(None, 0, 60, rate=1))
    await runs.begin("a", "b")
    with pytest.raises(TooManyRequests, match="--rate-limit-tokens-per-second") as error:
        await runs.tasks["b"]
    assert error.value.reason == "rate_limit"


def test_a_bucket_keeps_no_more_than_it_holds():
    bucket = TokenBucket(rate=2, capacity=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0
    assert [bucket.take(1000) for _ in range(4)] == [0, 0, 0, 0.5]
