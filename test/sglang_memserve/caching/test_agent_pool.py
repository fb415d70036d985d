"""What other instances leave for the scheduler's thread."""

from types import SimpleNamespace

import pytest

from sglang_memserve.caching import agent_pool
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.inbox import Inbox


class Requests:
    """Numbered publish requests; `done` has the numbers of those that ended."""

    def __init__(self):
        self.done = []

    def make(self, number):
        return SimpleNamespace(number=number, done=lambda: self.done.append(number))


@pytest.fixture
def engine_of(monkeypatch):
    """engine_of(dram): the callbacks that a pool is given, and both inboxes; `wakes` counts wake-ups."""
    monkeypatch.setattr(agent_pool, "MemPool", lambda config, **parts: parts["engine"])

    def start(dram):
        config = CachingAgentConfig(name="p", role="prefill", host="127.0.0.1", dram=dram, writes_back=True)
        wakes = []
        inboxes = {name: Inbox(lambda: wakes.append(1)) for name in ("write_backs", "publish_requests")}
        return agent_pool.start_pool(config, None, **inboxes), inboxes, wakes

    return start


def test_what_comes_wakes_the_scheduler_and_is_read_in_its_order(engine_of):
    engine, inboxes, wakes = engine_of("1GiB")
    engine.on_received("first")
    engine.on_received("second")
    assert len(wakes) == 2
    assert [inboxes["write_backs"].get() for _ in range(3)] == ["first", "second", None]


def test_publish_requests_are_refused_where_too_many_wait(engine_of, monkeypatch):
    monkeypatch.setattr(agent_pool, "_MAX_PUBLISH_REQUESTS", 2)
    engine, inboxes, wakes = engine_of("1GiB")
    requests = Requests()
    for number in range(4):
        engine.on_publish_request(requests.make(number))
    assert requests.done == [2, 3]
    assert len(wakes) == 2
    assert inboxes["publish_requests"].get().number == 0


def test_without_a_dram_tier_nothing_is_published_on_request(engine_of):
    engine, _, _ = engine_of("0")
    assert engine.on_publish_request is None
