"""Chats, aborts and deaths among two prefill and two decode instances: nothing stays behind but cache."""

import asyncio
import json
import random
import signal
import time
import uuid
from collections import Counter

import aiohttp
import pytest
from http_json import get

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(2400)]

REQUESTS, AT_ONCE = 1000, 10
POOL = 6144  # tokens; less than the chats have, so that they are evicted all the time
FLAGS = ("--max-total-tokens", str(POOL), "--memserve-dram", "192MiB")
# SGLang stops an instance whose books do not add up after an iteration.
STRICT = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
# After so many requests, one of them is killed.
KILLS = {150: ("decode", 0), 400: ("prefill", 1), 650: ("prefill", 0)}


class Talk:
    """Chats of up to eight turns whose answers feed back; half of the requests name somebody to fetch from,
    every eighth is given up at a random moment, by leaving or by its rid. A request may fail only where an
    instance was `down` when it was asked, or was killed since.
    """

    def __init__(self, url, names, seed):
        self.outcomes = Counter()
        self.asked = self.kills = 0
        self.down = False
        self._url, self._names, self._draw = url, names, random.Random(seed)

    async def hold(self):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            await asyncio.gather(*(self._chat_on() for _ in range(AT_ONCE)))

    async def _chat_on(self):
        while self.asked < REQUESTS:
            ids: list[int] | None = []
            for _ in range(self._draw.randrange(1, 9)):
                if ids is None or self.asked == REQUESTS:
                    break
                ids = await self._turn(ids + self._some_tokens(10, 120))

    async def _turn(self, ids):
        """The chat with its answer; None where there is none."""
        self.asked += 1
        kind = self._draw.choices(("answered", "left", "aborted"), (14, 1, 1))[0]
        body, down, kills = self._body(ids, 24 if kind == "answered" else 200), self.down, self.kills
        reply = await {"answered": self._ask, "left": self._leave, "aborted": self._abort}[kind](body)
        if kind == "answered" and "output_ids" not in reply:
            kind = "failed"
            assert reply.get("error"), reply
            assert down or self.kills > kills, f"nobody was killed: {reply}"
        self.outcomes[kind] += 1
        return ids + reply["output_ids"] if kind == "answered" else None

    def _body(self, ids, at_most):
        params = {"temperature": 0, "max_new_tokens": self._draw.randrange(1, at_most), "ignore_eos": True}
        if self._draw.random() < 0.5:
            hint = {"from": self._draw.choice(self._names), "deadline_ms": self._draw.randrange(50, 2000)}
            params["custom_params"] = {"memserve.fetch": hint}
        rid = uuid.UUID(int=self._draw.getrandbits(128)).hex
        return {"input_ids": ids, "sampling_params": params, "rid": rid, "stream": self._draw.random() < 0.5}

    def _some_tokens(self, lowest, highest):
        return [self._draw.randrange(1000, 40_000) for _ in range(self._draw.randrange(lowest, highest))]

    async def _ask(self, body):
        """The answer, or {"error": ...}."""
        async with self._session.post(f"{self._url}/generate", json=body) as response:
            text = await response.text()
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: {")]
        reply = json.loads(events[-1] if events else text)
        if reply.get("meta_info", {}).get("finish_reason", {}).get("type") == "abort":
            return {"error": reply["meta_info"]["finish_reason"]}
        return reply

    async def _leave(self, body):
        asked = asyncio.create_task(self._ask(body))
        await asyncio.wait([asked], timeout=self._draw.uniform(0.01, 3))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async def _abort(self, body):
        asked = asyncio.create_task(self._ask(body))
        await asyncio.sleep(self._draw.uniform(0.01, 3))
        async with self._session.post(f"{self._url}/abort_request", json={"rid": body["rid"]}) as response:
            await response.read()
        await asyncio.wait_for(asked, 60)


async def kill_now_and_then(talk, cluster):
    for after, (role, index) in KILLS.items():
        while talk.asked < after:
            await asyncio.sleep(0.1)
        victim = cluster.workers(role)[index]
        talk.kills, talk.down = talk.kills + 1, True
        seen = cluster.signal(victim, signal.SIGKILL)
        await asyncio.to_thread(cluster.wait_for, rf"{role}-{index} .*\bback\b", 300, seen)
        talk.down = False


def states(cluster):
    workers = cluster.workers("prefill") + cluster.workers("decode")
    return [get(f"{worker['url']}/server_info")["internal_states"][0]["memserve"] for worker in workers]


def until_nothing(held, seconds=60):
    deadline = time.monotonic() + seconds
    while left := held():
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def in_all(cluster, name):
    return sum(state.get(name, 0) for state in states(cluster))


@pytest.fixture(scope="module")
def two_by_two(cluster_of):
    with cluster_of.used("--prefill", "2", "--decode", "2", flags=FLAGS, env=STRICT) as cluster:
        yield cluster


def test_a_thousand_requests_leave_nothing_behind(two_by_two, post, in_use):
    cluster = two_by_two
    talk = Talk(cluster.url, [state["instance"] for state in states(cluster)], seed=1)

    async def run():
        await asyncio.gather(talk.hold(), kill_now_and_then(talk, cluster))

    asyncio.run(run())
    print(talk.outcomes)
    assert sum(talk.outcomes.values()) == REQUESTS
    assert talk.outcomes["failed"] < REQUESTS / 10
    until_nothing(lambda: in_use(cluster.url))
    until_nothing(lambda: in_all(cluster, "dram_blocks_in_use"))
    for name in ("write_backs_inserted", "fetches_completed", "dram_hits_inserted"):
        assert in_all(cluster, name) > 0, name
    died = [line for line in cluster.log.read_text().splitlines() if " died: " in line]
    assert len(died) == len(KILLS), died
    # A leased block would outlive this.
    assert post(cluster.url, "/flush_cache", {})[0] == 200
    until_nothing(lambda: in_all(cluster, "dram_blocks"), seconds=5)
    # All of the pool can be had again: twice as many as there are pairs meet each instance.
    whole = list(range(1000, 1000 + POOL - 1024))
    for number in range(4):
        body = {"input_ids": [number + 2, *whole], "sampling_params": {"max_new_tokens": 2}}
        assert post(cluster.url, "/generate", body)[0] == 200
    until_nothing(lambda: in_use(cluster.url))
