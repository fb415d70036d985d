"""What the scheduler of a colocated instance does with requests that wait for a fetch."""

from types import SimpleNamespace

import pytest

from sglang_memserve.hooks import caching as hooks
from sglang_memserve.hooks.scheduler_state import SchedulerState
from sglang_memserve.hooks.table import new_prefill_batch
from sglang_memserve.scheduler_wakeup import SchedulerWakeup


class Agent:
    """As far as the hooks know it: the requests of these names wait."""

    def __init__(self, *held):
        self.names, self.ticks, self.asked = set(held), 0, []

    def waiting_for_fetch(self, reqs):
        return [req for req in reqs if req.rid in self.names]

    def tick(self):
        self.ticks += 1

    def on_arrival(self, req):
        self.asked.append(req.rid)
        if req.rid == "bad":
            raise ValueError("no hint that anybody can read")


class Scheduler:
    def __init__(self, *names, held=(), mode="null", running=False):
        self.server_args = SimpleNamespace(disaggregation_mode=mode)
        self.waiting_queue = [SimpleNamespace(rid=name, bootstrap_room=None) for name in names]
        self.memserve = SchedulerState(agent=Agent(*held), wakeup=SchedulerWakeup())
        self.memserve.wakeup.wait = lambda: self.waits.append(1)
        self.waits, self.running = [], running

    def is_fully_idle(self, for_health_check=False, ignore_waiting=False):
        return not self.running and (ignore_waiting or not self.waiting_queue)

    def names(self):
        return [req.rid for req in self.waiting_queue]


def test_a_batch_is_made_of_requests_that_do_not_wait():
    scheduler = Scheduler("a", "b", "c", held=["b"])

    def take_first(scheduler):
        assert scheduler.names() == ["a", "c"]
        scheduler.waiting_queue = scheduler.waiting_queue[1:]
        return "batch"

    assert new_prefill_batch(take_first, scheduler) == "batch"
    assert scheduler.names() == ["b", "c"]


def test_no_request_is_lost_where_a_batch_cannot_be_made():
    scheduler = Scheduler("a", "b", held=["b"])

    def broken(scheduler):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        new_prefill_batch(broken, scheduler)
    assert sorted(scheduler.names()) == ["a", "b"]


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_the_queue_of_a_split_is_left_alone(mode):
    scheduler = Scheduler("a", "b", held=["b"], mode=mode)
    assert new_prefill_batch(lambda scheduler: scheduler.names(), scheduler) == ["a", "b"]


@pytest.mark.parametrize(
    ("scheduler", "sleeps"),
    [
        (Scheduler("a", held=["a"]), True),
        (Scheduler("a", "b", held=["a"]), False),
        (Scheduler("a", held=["a"], running=True), False),
        (Scheduler("a"), False),
        (Scheduler(), False),
    ],
)
def test_the_loop_sleeps_while_all_that_is_there_waits(scheduler, sleeps):
    hooks.tick(scheduler)
    assert bool(scheduler.waits) == sleeps
    assert scheduler.memserve.agent.ticks == 1


def test_a_hint_that_cannot_be_read_costs_no_request(caplog):
    scheduler = Scheduler("good", "bad")
    for req in scheduler.waiting_queue:
        queue, scheduler.waiting_queue = scheduler.waiting_queue, [req]
        hooks.fetch_for_colocated(None, scheduler, req)
        scheduler.waiting_queue = queue
    assert scheduler.memserve.agent.asked == ["good", "bad"]
    assert "the fetch for bad could not start" in caplog.text


def test_nothing_is_fetched_for_a_request_that_sglang_rejected():
    scheduler = Scheduler("a")
    hooks.fetch_for_colocated(None, scheduler, SimpleNamespace(rid="rejected", bootstrap_room=None))
    assert scheduler.memserve.agent.asked == []
