"""Which prompts prefill computes before decode has answered, and which of those give way."""

from types import SimpleNamespace

import pytest

from sglang_memserve import hooks


class Manager:
    def __init__(self, comes=()):
        self.comes, self.prefill = comes, SimpleNamespace(begun_early=0)

    def kv_comes(self, room):
        return room in self.comes


def req(name, pending):
    return SimpleNamespace(rid=name, bootstrap_room=name, pending_bootstrap=pending)


class Scheduler:
    def __init__(self, inflight=(), waiting=(), manager=None):
        self.disagg_prefill_inflight_queue, self.waiting_queue = list(inflight), list(waiting)
        self.memserve_manager, self.back = manager or Manager(), []

    def optimistic_release_and_requeue(self, req):
        self.back.append(req.rid)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("comes", [[], ["a"]])
def test_a_prompt_whose_kv_comes_waits_for_it(allowed, comes):
    queue = SimpleNamespace(scheduler=Scheduler(manager=Manager(comes)))
    begins = hooks.unless_kv_comes(lambda queue, req: allowed, queue, req("a", True))
    assert begins == (allowed and not comes)


def test_another_transfer_backend_is_left_alone():
    queue = SimpleNamespace(scheduler=SimpleNamespace())
    assert hooks.unless_kv_comes(lambda queue, req: True, queue, req("a", True))
    hooks.give_way(SimpleNamespace(batch_to_run=None), SimpleNamespace())


def test_what_began_early_is_counted():
    queue = SimpleNamespace(scheduler=Scheduler())
    hooks.count_early([req("a", True), req("b", False), req("c", True)], queue)
    assert queue.scheduler.memserve_manager.prefill.begun_early == 2


def test_the_last_that_was_computed_early_gives_way():
    scheduler = Scheduler([req("a", False), req("b", True), req("c", True)], [req("d", False)])
    hooks.give_way(SimpleNamespace(batch_to_run=None), scheduler)
    assert scheduler.back == ["c"]
    assert [req.rid for req in scheduler.disagg_prefill_inflight_queue] == ["a", "b"]


@pytest.mark.parametrize(
    ("batch", "waiting"),
    [("batch", [False]), (None, []), (None, [True])],
    ids=["there is room", "nobody waits", "decode waits for none of them"],
)
def test_nothing_gives_way_for_nothing(batch, waiting):
    scheduler = Scheduler([req("b", True)], [req("d", pending) for pending in waiting])
    hooks.give_way(SimpleNamespace(batch_to_run=batch), scheduler)
    assert scheduler.back == []
    assert len(scheduler.disagg_prefill_inflight_queue) == 1
