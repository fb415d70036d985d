"""Prefixes are sent before they are counted on, and what the instance says decides."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from sglang_memserve.calibrate import calibration
from sglang_memserve.calibrate.instance import PrefillProbe
from sglang_memserve.cluster.errors import ClusterError

PAGE = 16


class CachingEngine:
    """Caches whole pages of all that it saw, unless `forgets`."""

    def __init__(self):
        self.url = ""
        self.forgets = False
        self.info = {"chunked_prefill_size": 8192}
        self.batches = []
        self._pages = set()

    async def generate(self, request):
        body = await request.json()
        self.batches.append([len(prompt) for prompt in body["input_ids"]])
        assert body["sampling_params"]["max_new_tokens"] == 1
        answers = [{"meta_info": {"cached_tokens": self._cached(p)}} for p in body["input_ids"]]
        for prompt in body["input_ids"]:
            self._pages |= {tuple(prompt[:end]) for end in range(PAGE, len(prompt) + 1, PAGE)}
        await asyncio.sleep(1e-5 * sum(self.batches[-1]))
        return web.json_response(answers)

    def _cached(self, prompt):
        ends = range(PAGE, len(prompt), PAGE)
        return (
            0 if self.forgets else max((end for end in ends if tuple(prompt[:end]) in self._pages), default=0)
        )

    async def server_info(self, _):
        return web.json_response(self.info)


@pytest.fixture
async def engine(free_port):
    mock, port = CachingEngine(), free_port()
    app = web.Application()
    app.add_routes([web.post("/generate", mock.generate), web.get("/server_info", mock.server_info)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    mock.url = f"http://127.0.0.1:{port}"
    yield mock
    await runner.cleanup()


async def test_prefixes_are_sent_first_and_only_once(engine):
    async with aiohttp.ClientSession() as session:
        probe = PrefillProbe(session, engine.url, vocab=2000, page_size=PAGE)
        assert await probe.seconds([(64, 40), (32, 20)]) > 0
        # The batch without its prefixes, these one by one, the batch again.
        assert engine.batches == [[104, 52], [64], [32], [104, 52]]
        await probe.seconds([(48, 10), (32, 11)])
        assert engine.batches[4:] == [[58, 43]]


async def test_new_tokens_are_new_every_time(engine):
    async with aiohttp.ClientSession() as session:
        probe = PrefillProbe(session, engine.url, vocab=2000, page_size=PAGE)
        await probe.median_seconds([(0, 200)], rounds=3)
        assert engine.batches == [[200]] * 3


async def test_an_instance_that_keeps_nothing_is_named(engine):
    engine.forgets = True
    async with aiohttp.ClientSession() as session:
        probe = PrefillProbe(session, engine.url, vocab=2000, page_size=PAGE)
        with pytest.raises(ClusterError, match=r"had \[0\] tokens of \[64\] cached"):
            await probe.seconds([(64, 40)])


async def test_a_prefix_that_is_not_whole_pages_is_refused(engine):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match="30 cached tokens are not whole pages of 16"):
            await PrefillProbe(session, engine.url, vocab=2000, page_size=PAGE).seconds([(30, 40)])


async def test_what_takes_several_forwards_is_not_asked_for(engine):
    engine.info = {"chunked_prefill_size": 1024}
    prefills = await calibration.sample_prefills(engine.url, vocab=2000)
    assert len(prefills) > 4
    assert max(sum(new for _, new in prefill.batch) for prefill in prefills) <= 1024
    assert all(prefill.seconds > 0 for prefill in prefills)


async def test_an_answer_of_another_kind_is_shown(engine, monkeypatch):
    monkeypatch.setattr(engine, "_cached", lambda _: "many")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ClusterError, match=r"no meta_info\.cached_tokens.*many"):
            await PrefillProbe(session, engine.url, vocab=2000).seconds([(0, 40)])
