"""Which prompts prefill computes before decode has answered, and which of those yield."""

from types import SimpleNamespace

import pytest

from sglang_memserve.hooks import prefill as hooks
from sglang_memserve.hooks.scheduler_state import SchedulerState


class Manager:
    def __init__(self, comes=()):
        self.comes, self.prefill = comes, object()

    def expects_kv(self, req):
        return req.rid in self.comes


def req(name, pending, **how):
    plain = {"grammar": None, "return_logprob": False, "return_sampling_mask": False}
    return SimpleNamespace(rid=name, bootstrap_room=name, pending_bootstrap=pending, **plain | how)


class Scheduler:
    enable_overlap = False

    def __init__(self, sent=(), waiting=(), manager=None):
        self.disagg_prefill_inflight_queue, self.waiting_queue = list(sent), list(waiting)
        self.memserve, self.back = SchedulerState(manager=manager or Manager()), []

    def optimistic_release_and_requeue(self, req):
        self.back.append(req.rid)
        self.waiting_queue.insert(0, req)


def queue_of(comes=(), free=6, size=8):
    rows = SimpleNamespace(available_size=lambda: free, size=size)
    scheduler = Scheduler(manager=Manager(comes))
    return SimpleNamespace(scheduler=scheduler, req_to_metadata_buffer_idx_allocator=rows)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_prompt_starts_early_where_sglang_allows_it(allowed):
    asked = req("a", True)
    assert hooks.may_start_early(lambda queue, req: allowed, queue_of(), asked) == allowed


@pytest.mark.parametrize(
    ("queue", "how"),
    [
        (queue_of(comes=["a"]), {}),
        (queue_of(free=4), {}),
        (queue_of(), {"grammar": object()}),
        (queue_of(), {"return_logprob": True}),
        (queue_of(), {"return_sampling_mask": True}),
    ],
    ids=["its KV comes", "few rows are left", "grammar", "logprobs", "mask"],
)
def test_a_prompt_does_not_start_early_in_vain(queue, how):
    assert not hooks.may_start_early(lambda queue, req: True, queue, req("a", True, **how))


def test_another_transfer_backend_is_left_alone():
    queue = SimpleNamespace(scheduler=SimpleNamespace())
    assert hooks.may_start_early(lambda queue, req: True, queue, req("a", True))
    hooks.yield_optimistic_prefill(SimpleNamespace(batch_to_run=None), SimpleNamespace())


def test_the_last_early_prompt_yields_to_those_that_decode_waits_for():
    scheduler = Scheduler([req("b", True), req("c", True)], [req("e", True), req("d", False)])
    hooks.yield_optimistic_prefill(SimpleNamespace(batch_to_run=None), scheduler)
    assert scheduler.back == ["c"]
    assert [req.rid for req in scheduler.disagg_prefill_inflight_queue] == ["b"]
    assert [req.rid for req in scheduler.waiting_queue] == ["d", "c", "e"]


@pytest.mark.parametrize(
    ("batch", "sent", "waiting"),
    [("batch", [], [False]), (None, [], []), (None, [], [True]), (None, [False], [False])],
    ids=["there is room", "nobody waits", "decode waits for none", "there will be room"],
)
def test_no_early_prompt_yields_in_vain(batch, sent, waiting):
    sent = [req("b", True), *(req("c", pending) for pending in sent)]
    scheduler = Scheduler(sent, [req("d", pending) for pending in waiting])
    hooks.yield_optimistic_prefill(SimpleNamespace(batch_to_run=batch), scheduler)
    assert scheduler.back == []
    assert scheduler.disagg_prefill_inflight_queue == sent


def test_a_prompt_that_starts_early_is_counted_once(split):
    first, second = req("a", True), req("b", False)
    for chunk in ([first, second], [first]):
        split.p.prefill.count_early(chunk)
    assert split.p.counters()["prefills_begun_early"] == 1
