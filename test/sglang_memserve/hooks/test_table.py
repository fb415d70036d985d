"""One hook a target, and the order of what two subjects do at one target."""

from types import SimpleNamespace

import pytest

from sglang_memserve import hook_targets
from sglang_memserve.hook_targets import Target
from sglang_memserve.hooks import caching, decode, metrics, prefill, server, table


@pytest.fixture(params=[True, False], ids=["on CPU", "elsewhere"])
def on_cpu(request, monkeypatch):
    monkeypatch.setattr(hook_targets, "on_cpu", lambda: request.param)
    return request.param


def test_each_target_has_one_hook_and_each_hook_a_known_target(on_cpu):
    hooked = [spec.target for spec in table.specs()]
    assert len(set(hooked)) == len(hooked)
    assert set(hooked) == set(hook_targets.targets())
    assert set(Target) - set(hooked) == (set() if on_cpu else {Target.LAST_LOC})


@pytest.fixture
def calls(monkeypatch):
    """What the hooks call, in order; each entry is the name of a function."""
    called = []

    def record(module, name):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: called.append(name))

    for module, name in (
        (prefill, "refuse_rejected"),
        (prefill, "yield_optimistic_prefill"),
        (caching, "fetch_for_queue"),
        (caching, "attach_colocated"),
        (caching, "tick"),
        (decode, "expect_first_token"),
        (metrics, "start_metrics"),
        (metrics, "publish"),
        (server, "advertise"),
        (server, "identify"),
    ):
        record(module, name)
    return called


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (table.added_to_prefill_queue, ["refuse_rejected", "fetch_for_queue"]),
        (table.added_to_decode_queue, ["fetch_for_queue", "expect_first_token"]),
        (table.scheduler_is_set_up, ["attach_colocated", "start_metrics"]),
        (table.describe, ["advertise", "identify"]),
    ],
    ids=["prefill queue", "decode queue", "set up", "server info"],
)
def test_two_subjects_at_one_target_have_an_order(calls, hook, expected):
    takes_request = "queue" in hook.__name__
    hook(None, object(), *([object()] if takes_request else []))
    assert calls == expected


def test_what_has_come_is_in_the_tree_before_requests_are_taken_in(calls):
    result = table.ingest_requests(lambda scheduler: calls.append("original") or "result", object())
    assert (result, calls) == ("result", ["publish", "tick", "original"])


def test_early_prompts_yield_while_held_requests_are_out_of_the_queue(monkeypatch):
    held, free = SimpleNamespace(rid="held"), SimpleNamespace(rid="free")
    scheduler = SimpleNamespace(waiting_queue=[held, free])
    seen = []
    monkeypatch.setattr(caching, "_held", lambda scheduler: [held])
    monkeypatch.setattr(
        prefill,
        "yield_optimistic_prefill",
        lambda result, scheduler: seen.append((result, list(scheduler.waiting_queue))),
    )
    assert table.new_prefill_batch(lambda scheduler: "batch", scheduler) == "batch"
    assert seen == [("batch", [free])]
    assert scheduler.waiting_queue == [held, free]
