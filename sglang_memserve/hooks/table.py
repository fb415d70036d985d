"""The hooks that put MemServe into SGLang's processes: one for each target.

Where two subjects have something to do at one target, the hook here calls both, in the order that they need.
Imported in all of SGLang's processes: nothing heavy at import.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sglang_memserve.hook_targets import Target, targets
from sglang_memserve.hooks import (
    caching,
    cpu,
    decode,
    metrics,
    overlap,
    prefill,
    prompts,
    samples,
    server,
    transfer,
)

Hook = Callable[..., Any]


class HookSpec(NamedTuple):
    """`kind`: the name of one of SGLang's HookType."""

    target: Target
    kind: str
    hook: Hook


def specs() -> tuple[HookSpec, ...]:
    """Of this process."""
    active = targets()
    return tuple(spec for spec in _all_specs() if spec.target in active)


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for spec in specs():
        HookRegistry.register(spec.target, spec.hook, HookType[spec.kind])


def _all_specs() -> tuple[HookSpec, ...]:
    rooms = samples.SampleRooms()

    def batch_request(original: Hook, manager: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        prompts.refuse_batch(manager, batch)
        return rooms.count_uses(original, manager, batch, *args, **kwargs)

    return (
        HookSpec(Target.CHECK_SERVER_ARGS, "AFTER", server.refuse_unsupported),
        HookSpec(Target.RESOLVED_ARGS, "AFTER", server.redact_keys),
        HookSpec(Target.KV_CLASS, "AROUND", transfer.kv_class),
        HookSpec(Target.PREFILL_MANAGER, "AFTER", transfer.attach_pool),
        HookSpec(Target.DECODE_MANAGER, "AFTER", transfer.attach_pool),
        HookSpec(Target.PREFILL_QUEUE, "AFTER", added_to_prefill_queue),
        HookSpec(Target.DECODE_QUEUE, "AFTER", added_to_decode_queue),
        HookSpec(Target.EARLY_PREFILL, "AROUND", prefill.may_start_early),
        HookSpec(Target.SEND_CACHED_PREFIX, "AROUND", send_cached_prefix),
        HookSpec(Target.COLOCATED_QUEUE, "AFTER", caching.fetch_for_colocated),
        HookSpec(Target.NEW_PREFILL_BATCH, "AROUND", new_prefill_batch),
        HookSpec(Target.RUN_BATCH, "AROUND", run_batch),
        HookSpec(Target.INIT_DISAGGREGATION, "AFTER", scheduler_is_set_up),
        HookSpec(Target.INGEST_REQUESTS, "AROUND", ingest_requests),
        HookSpec(Target.INTERNAL_STATE, "AFTER", metrics.add_counters),
        HookSpec(Target.INIT_INFO, "AFTER", describe),
        HookSpec(Target.STREAM_OUTPUT, "AROUND", decode.stream_the_rest),
        HookSpec(Target.VALIDATE_REQUEST, "BEFORE", prompts.refuse_without_tokens),
        HookSpec(Target.BATCH_REQUEST, "AROUND", batch_request),
        HookSpec(Target.SEND_REQUEST, "AROUND", rooms.send_to_room),
        HookSpec(Target.LAST_LOC, "AROUND", cpu.last_loc_without_triton),
    )


def added_to_prefill_queue(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    prefill.refuse_rejected(queue, req)
    caching.fetch_for_queue(queue, req)


def added_to_decode_queue(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    caching.fetch_for_queue(queue, req)
    decode.expect_first_token(queue, req)


def send_cached_prefix(original: Hook, scheduler: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """For each request of a batch, before that is launched."""
    with cpu.without_cuda_events(scheduler):
        original(scheduler, req, *args, **kwargs)
    prefill.announce_layers(scheduler, req)


def new_prefill_batch(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """The queue is the one without held requests for both: what yields sorts it."""
    with caching.without_held(scheduler):
        result = original(scheduler, *args, **kwargs)
        prefill.yield_optimistic_prefill(result, scheduler)
        return result


def run_batch(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    overlap.count_launch(scheduler)
    return prefill.run_batch(original, scheduler, *args, **kwargs)


def scheduler_is_set_up(result: object, scheduler: Any) -> None:
    """Metrics come second: they are for a scheduler that MemServe has a part in."""
    caching.attach_colocated(scheduler)
    metrics.start_metrics(scheduler)


def ingest_requests(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Once an iteration, before the scheduler takes in requests."""
    metrics.publish(scheduler)
    caching.tick(scheduler)
    return original(scheduler, *args, **kwargs)


def describe(result: dict[str, Any], scheduler: Any) -> None:
    server.advertise(result, scheduler)
    server.identify(result, scheduler)
