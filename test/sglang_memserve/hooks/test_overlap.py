"""What the hooks do differently while a batch runs behind the scheduler."""

from types import SimpleNamespace

import pytest

from sglang_memserve.hooks import cpu, metrics, prefill, table
from sglang_memserve.hooks.overlap import forward_stream, runs_a_batch
from sglang_memserve.hooks.scheduler_state import scheduler_state


def scheduler_of(*, enable_overlap, results=()):
    return SimpleNamespace(enable_overlap=enable_overlap, forward_stream="stream", result_queue=results)


def test_the_forward_stream_is_one_that_forwards_are_launched_on():
    assert forward_stream(scheduler_of(enable_overlap=True)) == "stream"
    assert forward_stream(scheduler_of(enable_overlap=False)) is None


def test_a_batch_runs_until_its_result_was_looked_at():
    assert runs_a_batch(scheduler_of(enable_overlap=True, results=["result"]))
    assert not runs_a_batch(scheduler_of(enable_overlap=True))
    without = SimpleNamespace(enable_overlap=False)
    assert not runs_a_batch(without), "SGLang has no queue of results then"


@pytest.mark.parametrize("enable_overlap", [True, False])
def test_only_the_overlap_schedule_launches_batches_beside_one_that_runs(enable_overlap):
    scheduler = scheduler_of(enable_overlap=enable_overlap, results=[])
    scheduler.tree_cache = None
    scheduler_state(scheduler).manager = SimpleNamespace(prefill=None, counters=dict)
    for _ in range(3):
        table.run_batch(lambda scheduler, batch: scheduler.result_queue.append(batch), scheduler, "batch")
    assert metrics.counters(scheduler) == {"batches_overlapped": 2 if enable_overlap else 0}


@pytest.mark.parametrize("running", [True, False])
def test_an_early_prompt_gives_way_only_once_nothing_runs(monkeypatch, running):
    early, released = SimpleNamespace(pending_bootstrap=True), []
    scheduler = scheduler_of(enable_overlap=True, results=["result"] if running else [])
    scheduler.disagg_prefill_inflight_queue = [early]
    scheduler.waiting_queue = [SimpleNamespace(pending_bootstrap=False)]
    scheduler.optimistic_release_and_requeue = released.append
    monkeypatch.setattr(prefill, "_side_of", lambda _: "prefill")
    prefill.yield_optimistic_prefill(SimpleNamespace(batch_to_run=None), scheduler)
    assert released == ([] if running else [early])


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("enable_overlap", [True, False])
def test_on_a_cpu_no_cuda_event_is_recorded_before_a_send(monkeypatch, on_cpu, enable_overlap):
    scheduler, seen = scheduler_of(enable_overlap=enable_overlap), []
    monkeypatch.setattr(cpu, "on_cpu", lambda: on_cpu)
    monkeypatch.setattr(prefill, "announce_layers", lambda scheduler, req: seen.append(req))

    def send(scheduler, req, allow_send):
        seen.append((scheduler.enable_overlap, req, allow_send))

    table.send_cached_prefix(send, scheduler, "request", allow_send=True)
    assert seen == [(enable_overlap and not on_cpu, "request", True), "request"]
    assert scheduler.enable_overlap == enable_overlap


def test_overlap_is_on_again_after_a_send_that_failed(monkeypatch):
    scheduler = scheduler_of(enable_overlap=True)
    monkeypatch.setattr(cpu, "on_cpu", lambda: True)
    with pytest.raises(RuntimeError), cpu.without_cuda_events(scheduler):
        raise RuntimeError
    assert scheduler.enable_overlap
