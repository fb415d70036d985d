"""A day of impatient clients in two minutes: nothing stays behind but cache."""

import asyncio
import random
import time
import uuid

import aiohttp
import psutil
import pytest
from http_json import get

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(1200)]

REQUESTS = 300
AT_ONCE = 12
GROWTH_BYTES = 128 << 20  # an allocator's slack
POOL_TOKENS, LONG = 16_384, 2_000
# PyTorch's oneDNN keeps what it compiled for each shape of a matrix, a thousand of them: up to 600 MB over
# the lengths of prompts, in any SGLang on a CPU. With few kept, what grows is a leak.
FEW_SHAPES = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}


class Crowd:
    """Sends requests of many kinds; every fourth is given up at a random moment, by leaving or by its rid."""

    def __init__(self, url, seed):
        self.url = url
        self.draw = random.Random(seed)
        self.answered = self.given_up = 0

    async def send_all(self, count):
        gate = asyncio.Semaphore(AT_ONCE)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._one(number, gate, session) for number in range(count)))

    async def _one(self, number, gate, session):
        body = self._body()
        async with gate:
            if number % 4:
                assert await self._ask(session, body) == 200
                self.answered += 1
            elif number % 8:
                await self._leave(session, body)
            else:
                await self._abort(session, body)

    def _body(self):
        ids = [self.draw.randrange(1000, 40000) for _ in range(self.draw.randrange(8, 200))]
        params = {"temperature": 0, "max_new_tokens": self.draw.randrange(1, 24), "ignore_eos": True}
        rid = uuid.UUID(int=self.draw.getrandbits(128)).hex
        return {"input_ids": ids, "sampling_params": params, "rid": rid, "stream": self.draw.random() < 0.5}

    async def _ask(self, session, body):
        async with session.post(f"{self.url}/generate", json=body) as response:
            await response.read()
            return response.status

    async def _leave(self, session, body):
        body["sampling_params"]["max_new_tokens"] = 200
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self._ask(session, body), self.draw.uniform(0.01, 3))
        self.given_up += 1

    async def _abort(self, session, body):
        body["sampling_params"]["max_new_tokens"] = 200
        running = asyncio.create_task(self._ask(session, body))
        await asyncio.sleep(self.draw.uniform(0.01, 3))
        async with session.post(f"{self.url}/abort_request", json={"rid": body["rid"]}) as response:
            assert response.status == 200
        await asyncio.wait_for(running, 60)
        self.given_up += 1


def until_idle(url, in_use, seconds=60):
    deadline = time.monotonic() + seconds
    while held := in_use(url):
        assert time.monotonic() < deadline, held
        time.sleep(0.5)
    time.sleep(6)  # until connections that are kept alive have been closed
    assert not any(worker["in_flight"] for worker in get(f"{url}/workers")["workers"])


def touch_the_pool(url, post):
    """The kernel gives a KV pool's memory when it is first written to: that is no growth of ours."""
    for _ in range(POOL_TOKENS // LONG):
        ids = [random.randrange(1000, 40000) for _ in range(LONG)]
        assert post(url, "/generate", {"input_ids": ids, "sampling_params": {"max_new_tokens": 1}})[0] == 200


def footprint(cluster, looks=20):
    """File descriptors and private bytes of every process of the cluster, by pid.

    The fewest descriptors of several looks: a health probe is a connection too, while it lasts.
    """
    family = psutil.Process(cluster.popen.pid).children(recursive=True)
    fds = {process.pid: process.num_fds() for process in family}
    for _ in range(looks):
        time.sleep(0.3)
        fds = {process.pid: min(fds[process.pid], process.num_fds()) for process in family}
    return {p.pid: (" ".join(p.cmdline())[:60], fds[p.pid], p.memory_full_info().uss) for p in family}


@pytest.fixture
def cluster(cluster_of):
    with cluster_of.used("--prefill", "1", "--decode", "1", env=FEW_SHAPES) as cluster:
        yield cluster


def test_three_hundred_requests_leave_nothing_behind(cluster, post, in_use):
    url = cluster.url
    touch_the_pool(url, post)
    asyncio.run(Crowd(url, seed=1).send_all(REQUESTS // 5))
    until_idle(url, in_use)
    before = footprint(cluster)
    crowd = Crowd(url, seed=2)
    asyncio.run(crowd.send_all(REQUESTS))
    assert (crowd.answered, crowd.given_up) == (REQUESTS * 3 // 4, REQUESTS // 4)
    until_idle(url, in_use)
    after = footprint(cluster)
    assert before.keys() == after.keys()
    for pid, (name, fds, private) in after.items():
        assert fds <= before[pid][1], f"{name}: {before[pid][1]} file descriptors became {fds}"
        assert private < before[pid][2] + GROWTH_BYTES, f"{name}: {before[pid][2]} bytes became {private}"
