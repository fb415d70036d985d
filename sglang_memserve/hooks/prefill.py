"""Where SGLang's scheduler of a prefill instance meets the transfer backend."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_memserve.hooks.overlap import forward_stream, runs_a_batch
from sglang_memserve.hooks.scheduler_state import scheduler_state

if TYPE_CHECKING:
    from sglang_memserve.transfer.prefill import PrefillSide

Hook = Callable[..., Any]


def refuse_rejected(queue: Any, req: Any) -> None:
    """Tells decode of a request that SGLang rejected at intake: decode would wait for its KV."""
    side = _side_of(queue.scheduler)
    if side is not None and req.disagg_kv_sender is None and req.bootstrap_room:
        side.refuse_room(req.bootstrap_room, "rejected by the prefill instance")


def may_start_early(original: Hook, queue: Any, req: Any) -> bool:
    """Whether a prompt is computed before decode has room for it, which SGLang allows.

    Not where its KV is on its way. Not where a first token leaves state behind that a second computation
    would have to undo. And not for more than half of the metadata rows: requests that decode has room for
    need rows too.
    """
    manager = scheduler_state(queue.scheduler).manager
    if manager is not None:
        rows = queue.req_to_metadata_buffer_idx_allocator
        if manager.expects_kv(req) or 2 * rows.available_size() <= rows.size:
            return False
        if req.grammar is not None or req.return_logprob or req.return_sampling_mask:
            return False
    return bool(original(queue, req))


def yield_optimistic_prefill(result: Any, scheduler: Any) -> None:
    """Frees the KV of a prompt that was computed early where it is in the way.

    Such a prompt keeps its KV until decode has room for it. If that leaves no room for a prompt that decode
    waits for, and nothing else will free any, neither would ever go on. A batch that still runs may.
    """
    if _side_of(scheduler) is None or result.batch_to_run is not None or runs_a_batch(scheduler):
        return
    sent, waiting = scheduler.disagg_prefill_inflight_queue, scheduler.waiting_queue
    stuck = all(req.pending_bootstrap for req in sent)
    if sent and stuck and not all(req.pending_bootstrap for req in waiting):
        scheduler.optimistic_release_and_requeue(sent.pop())
        # The room is not for another prompt that starts early.
        waiting.sort(key=lambda req: req.pending_bootstrap)


def run_batch(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the launch of a batch, whose layers are sent as they are written."""
    side = _side_of(scheduler)
    if side is None:
        return original(scheduler, *args, **kwargs)
    side.count_early(args[0].reqs)
    with side.batch(forward_stream(scheduler)):
        return original(scheduler, *args, **kwargs)


def announce_layers(scheduler: Any, req: Any) -> None:
    """Announces the pages that a request's next forward writes. SGLang sends them after it, in this order."""
    from sglang_memserve.transfer.sender import MemServeKVSender

    side, sender = _side_of(scheduler), req.disagg_kv_sender
    if side is None or not side.sends_by_layer or not isinstance(sender, MemServeKVSender):
        return
    length = len(req.origin_input_ids)
    stop = min(req.extend_end, length)
    if stop < length:
        stop -= stop % scheduler.token_to_kv_pool_allocator.page_size
    if not req.pending_bootstrap and stop > req.start_send_idx:
        slots = scheduler.req_to_token_pool.req_to_token[req.kv.req_pool_idx, req.start_send_idx : stop]
        side.announce(sender.bootstrap_room, slots, sender.curr_idx)


def _side_of(scheduler: Any) -> "PrefillSide | None":
    manager = scheduler_state(scheduler).manager
    return None if manager is None else manager.prefill
