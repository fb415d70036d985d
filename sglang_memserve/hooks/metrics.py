"""The counters of a scheduler process: in SGLang's internal state, and at `/metrics`."""

from typing import Any

from sglang_memserve.hooks.scheduler_state import scheduler_state


def start_metrics(scheduler: Any) -> None:
    """Where the server runs with `--enable-metrics`; each metric has the labels of SGLang's own."""
    from sglang_memserve.caching.metrics import MetricsPublisher

    collector = getattr(scheduler, "metrics_collector", None)
    if collector is not None and counters(scheduler) is not None:
        scheduler_state(scheduler).metrics = MetricsPublisher(
            lambda: counters(scheduler) or {}, collector.labels
        )


def publish(scheduler: Any) -> None:
    """Once an iteration; most calls return at once."""
    metrics = scheduler_state(scheduler).metrics
    if metrics is not None:
        metrics.publish()


def add_counters(result: Any, scheduler: Any, *args: Any) -> None:
    counted = counters(scheduler)
    if counted is not None:
        result.internal_state["memserve"] = counted


def counters(scheduler: Any) -> dict[str, Any] | None:
    """None where MemServe has no part in the scheduler."""
    state = scheduler_state(scheduler)
    parts = [part.counters() for part in (state.manager, state.agent) if part is not None]
    if not parts:
        return None
    prompts = getattr(scheduler.tree_cache, "prompts", {})
    names = {} if state.agent is None else {"instance": state.agent.name, "peers": state.agent.peers}
    loop = {"batches_overlapped": state.batches_overlapped}
    return {name: count for part in (*parts, prompts, loop, names) for name, count in part.items()}
