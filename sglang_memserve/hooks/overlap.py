"""What SGLang's overlap schedule runs behind its scheduler's back."""

from typing import Any

from sglang_memserve.hooks.scheduler_state import scheduler_state


def forward_stream(scheduler: Any) -> Any:
    """The stream that batches are launched on; None for the one that is current in the scheduler's thread.

    SGLang makes a stream of that name in any case, and without overlap launches nothing on it.
    """
    return scheduler.forward_stream if scheduler.enable_overlap else None


def runs_a_batch(scheduler: Any) -> bool:
    """Whether the result of a batch that was launched has yet to be looked at."""
    return bool(scheduler.enable_overlap and scheduler.result_queue)


def count_launch(scheduler: Any) -> None:
    """Before each launch: counts those beside a batch that still runs. Only the overlap schedule has any."""
    if runs_a_batch(scheduler):
        scheduler_state(scheduler).batches_overlapped += 1
