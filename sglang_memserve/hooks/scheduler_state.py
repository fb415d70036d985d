"""What MemServe adds to one scheduler, in the only attribute that it sets on SGLang's `Scheduler`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang_memserve.caching.agent import CachingAgent
    from sglang_memserve.caching.metrics import MetricsPublisher
    from sglang_memserve.scheduler_wakeup import SchedulerWakeup
    from sglang_memserve.transfer.manager import MemServeKVManager

_ATTRIBUTE = "memserve"


@dataclass(slots=True)
class SchedulerState:
    """`manager`: of the transfer backend, on a prefill or decode instance. `agent`: where KV is kept outside
    SGLang's tree too. `wakeup`: what ends the scheduler's waits. `metrics`: with `--enable-metrics`.

    Each is None where the scheduler has none. `batches_overlapped`: see `overlap.count_launch`. Only the
    hooks set them.
    """

    manager: "MemServeKVManager | None" = None
    agent: "CachingAgent | None" = None
    wakeup: "SchedulerWakeup | None" = None
    metrics: "MetricsPublisher | None" = None
    batches_overlapped: int = 0


def scheduler_state(scheduler: Any) -> SchedulerState:
    """The scheduler's state, made at the first call."""
    state: SchedulerState | None = vars(scheduler).get(_ATTRIBUTE)
    if state is None:
        state = vars(scheduler).setdefault(_ATTRIBUTE, SchedulerState())
    return state
