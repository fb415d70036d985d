"""The hooks that put MemServe into SGLang's processes, and the check that each took hold.

SGLang only logs a hook whose target is gone, and the server comes up without it. Every process that is about
to serve with MemServe therefore calls `require_applied` first.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from sglang_memserve import compat, samples
from sglang_memserve.hooks import caching as caching
from sglang_memserve.transfer import first_token
from sglang_memserve.transfer.first_token import FirstTokens

logger = logging.getLogger(__name__)

Hook = Callable[..., Any]


class HookSpec(NamedTuple):
    target: str
    kind: str
    hook: Hook


def specs() -> tuple[HookSpec, ...]:
    return (
        HookSpec("sglang.srt.arg_groups.validation_hook.check_server_args", "AFTER", refuse_unsupported),
        HookSpec("sglang.srt.server_args.ServerArgs.resolved_dict", "AFTER", blank_out_keys),
        HookSpec("sglang.srt.disaggregation.utils.get_kv_class", "AROUND", kv_class),
        HookSpec(f"{_PREFILL}.PrefillBootstrapQueue._init_kv_manager", "AFTER", attach_pool),
        HookSpec(f"{_DECODE}.DecodePreallocQueue._init_kv_manager", "AFTER", attach_pool),
        HookSpec(f"{_PREFILL}.PrefillBootstrapQueue.add", "AFTER", refuse_what_was_not_admitted),
        HookSpec(f"{_PREFILL}.PrefillBootstrapQueue.can_prefill_before_bootstrap", "AROUND", may_begin_early),
        HookSpec(f"{_SCHEDULER}.get_new_batch_prefill", "AFTER", yield_optimistic_prefill),
        HookSpec(f"{_PREFILL}.PrefillBootstrapQueue.add", "AFTER", caching.fetch_for_queue),
        HookSpec(f"{_DECODE}.DecodePreallocQueue.add", "AFTER", caching.fetch_for_queue),
        HookSpec(f"{_DECODE}.DecodePreallocQueue.add", "AFTER", expect_first_token),
        HookSpec(f"{_STREAMER}.stream_output", "AROUND", stream_untold),
        HookSpec(f"{_SCHEDULER}._add_request_to_queue", "AFTER", caching.fetch_for_colocated),
        HookSpec(f"{_SCHEDULER}.get_new_batch_prefill", "AROUND", caching.leave_out_held),
        HookSpec(f"{_SCHEDULER}.init_disaggregation", "AFTER", caching.attach_colocated),
        HookSpec(f"{_SCHEDULER}.init_disaggregation", "AFTER", start_metrics),
        HookSpec(f"{_PREFILL}.{_MIXIN}.maybe_send_cached_prefix_chunk", "AFTER", announce_layers),
        HookSpec(f"{_SCHEDULER}.run_batch", "AROUND", launch),
        HookSpec(f"{_SCHEDULER}.ingest_requests", "AROUND", tick),
        HookSpec(f"{_SCHEDULER}.get_internal_state", "AFTER", add_counters),
        HookSpec(f"{_SCHEDULER}.get_init_info", "AFTER", advertise),
        HookSpec(f"{_SCHEDULER}.get_init_info", "AFTER", identify),
        HookSpec(f"{_TOKENIZER}._handle_batch_request", "AROUND", samples.count_uses),
        HookSpec(f"{_TOKENIZER}._send_one_request", "AROUND", samples.send_to_room),
        *(_cpu_specs() if on_cpu() else ()),
    )


def _cpu_specs() -> tuple[HookSpec, ...]:
    return (HookSpec("sglang.srt.mem_cache.allocation.get_last_loc", "AROUND", last_loc_without_triton),)


def on_cpu() -> bool:
    """Whether MemServe's CPU platform is the one that SGLang runs on."""
    from sglang.srt.platforms import current_platform

    from sglang_memserve.cpu.platform import MemServeCpuPlatform

    return isinstance(current_platform, MemServeCpuPlatform)


_PREFILL = "sglang.srt.disaggregation.prefill"
_MIXIN = "SchedulerDisaggregationPrefillMixin"
_DECODE = "sglang.srt.disaggregation.decode"
_STREAMER = "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer"
_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
_TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for spec in specs():
        HookRegistry.register(spec.target, spec.hook, HookType[spec.kind])


def require_applied() -> None:
    """Raises RuntimeError with the names of the hooks that SGLang could not apply."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    missing = [spec.target for spec in specs() if spec.target not in HookRegistry._patched]
    if missing:
        raise RuntimeError(
            f"MemServe cannot serve: SGLang has no {', no '.join(missing)} to hook into. "
            f"Tested with SGLang {', '.join(compat.TESTED_SGLANG)}."
        )


def refuse_unsupported(result: object, server_args: Any) -> None:
    from sglang_memserve import limits

    if limits.serves_with_memserve(server_args):
        require_applied()
        limits.refuse_unsupported_args(server_args)


def blank_out_keys(settings: dict[str, Any], server_args: Any) -> None:
    """What SGLang writes to its log and tells at /server_info."""
    for name in ("api_key", "admin_api_key"):
        if settings.get(name):
            settings[name] = "<redacted>"


def kv_class(original: Hook, transfer_backend: Any, class_type: Any) -> Any:
    """Our classes for our backend. Health probes ask for FAKE on our servers too, and must get SGLang's."""
    if not compat.is_our_backend(transfer_backend):
        return original(transfer_backend, class_type)
    require_applied()
    from sglang.srt.disaggregation.base import KVArgs
    from sglang.srt.disaggregation.common.conn import CommonKVBootstrapServer

    from sglang_memserve.transfer.decode import MemServeKVReceiver
    from sglang_memserve.transfer.kv_sender import MemServeKVSender
    from sglang_memserve.transfer.manager import MemServeKVManager

    return {
        "KVARGS": KVArgs,
        "MANAGER": MemServeKVManager,
        "SENDER": MemServeKVSender,
        "RECEIVER": MemServeKVReceiver,
        "BOOTSTRAP_SERVER": CommonKVBootstrapServer,
    }[class_type.name]


def attach_pool(manager: Any, queue: Any) -> None:
    from sglang_memserve.transfer.manager import MemServeKVManager

    if isinstance(manager, MemServeKVManager):
        manager.attach_pool(queue.token_to_kv_pool, getattr(queue.scheduler, "forward_stream", None))
        queue.scheduler.memserve_manager = manager
        manager.agent = caching.attach(
            queue.scheduler, queue.token_to_kv_pool, manager.local_ip, manager.news
        )


def refuse_what_was_not_admitted(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """SGLang rejects a request at intake without a word to decode, which would wait for it."""
    manager = getattr(queue.scheduler, "memserve_manager", None)
    if manager is not None and req.disagg_kv_sender is None and req.bootstrap_room:
        manager.prefill.refuse_room(req.bootstrap_room, "rejected by the prefill instance")


def may_begin_early(original: Hook, queue: Any, req: Any) -> bool:
    """SGLang lets a request be computed before decode has room for it: not here where its KV is on its way,
    nor with what a first token leaves behind, if it must be computed again, and not for more than half of
    what waits to be sent: what decode has room for needs rows of that too.
    """
    manager = getattr(queue.scheduler, "memserve_manager", None)
    if manager is not None:
        rows = queue.req_to_metadata_buffer_idx_allocator
        if manager.kv_comes(req) or 2 * rows.available_size() <= rows.size:
            return False
        if req.grammar is not None or req.return_logprob or req.return_sampling_mask:
            return False
    return bool(original(queue, req))


def yield_optimistic_prefill(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    """What was computed early keeps its KV until decode has room for it. Where that leaves no room for what
    decode waits for, and nothing else will, neither would ever go on.
    """
    manager = getattr(scheduler, "memserve_manager", None)
    if manager is None or manager.prefill is None or result.batch_to_run is not None:
        return
    sent, waiting = scheduler.disagg_prefill_inflight_queue, scheduler.waiting_queue
    stuck = all(req.pending_bootstrap for req in sent)
    if sent and stuck and not all(req.pending_bootstrap for req in waiting):
        scheduler.optimistic_release_and_requeue(sent.pop())
        # The room is not for another one that begins early.
        waiting.sort(key=lambda req: req.pending_bootstrap)


def expect_first_token(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    manager = getattr(queue.scheduler, "memserve_manager", None)
    if manager is not None and req.bootstrap_room:
        if manager.decode.first_tokens is None:
            manager.decode.first_tokens = FirstTokens(queue.scheduler, queue.metadata_buffers)
        manager.decode.first_tokens.expect(req)


def stream_untold(original: Hook, streamer: Any, reqs: list[Any], *args: Any, **kwargs: Any) -> Any:
    with first_token.lock_of(streamer):
        return original(streamer, first_token.untold(reqs), *args, **kwargs)


def launch(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    manager = getattr(scheduler, "memserve_manager", None)
    if manager is None or manager.prefill is None:
        return original(scheduler, *args, **kwargs)
    manager.prefill.count_early(args[0].reqs)
    with manager.prefill.batch(getattr(scheduler, "forward_stream", None)):
        return original(scheduler, *args, **kwargs)


def announce_layers(result: object, scheduler: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """Of each request whose forward follows. What SGLang will send after it, it sends in the same order."""
    from sglang_memserve.transfer.kv_sender import MemServeKVSender

    sender, manager = req.disagg_kv_sender, getattr(scheduler, "memserve_manager", None)
    if manager is None or not manager.prefill.sends_by_layer or not isinstance(sender, MemServeKVSender):
        return
    length = len(req.origin_input_ids)
    stop = min(req.extend_end, length)
    if stop < length:
        stop -= stop % scheduler.token_to_kv_pool_allocator.page_size
    if not req.pending_bootstrap and stop > req.start_send_idx:
        slots = scheduler.req_to_token_pool.req_to_token[req.kv.req_pool_idx, req.start_send_idx : stop]
        manager.prefill.announce(sender.bootstrap_room, slots, sender.curr_idx)


def start_metrics(result: object, scheduler: Any) -> None:
    """Where the server runs with `--enable-metrics`, with the labels of SGLang's own."""
    from sglang_memserve.caching.metrics import Metrics

    collector = getattr(scheduler, "metrics_collector", None)
    if collector is not None and _counters(scheduler) is not None:
        scheduler.memserve_metrics = Metrics(lambda: _counters(scheduler) or {}, collector.labels)


def tick(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Once an iteration, before the scheduler takes in requests."""
    metrics = getattr(scheduler, "memserve_metrics", None)
    if metrics is not None:
        metrics.publish()
    return caching.tick(original, scheduler, *args, **kwargs)


def add_counters(result: Any, scheduler: Any, *args: Any) -> None:
    counted = _counters(scheduler)
    if counted is not None:
        result.internal_state["memserve"] = counted


def _counters(scheduler: Any) -> dict[str, Any] | None:
    """None where MemServe has no part in the scheduler."""
    manager, agent = getattr(scheduler, "memserve_manager", None), getattr(scheduler, "memserve_agent", None)
    if manager is None and agent is None:
        return None
    parts = [part.counters() for part in (manager, agent) if part is not None]
    prompts = getattr(scheduler.tree_cache, "prompts", {})
    name = {} if agent is None else {"instance": agent.name, "knows": agent.peers}
    return {name: count for part in (*parts, prompts, name) for name, count in part.items()}


def advertise(result: dict[str, Any], scheduler: Any) -> None:
    """In `/server_info`: what a router may send here and to no stock server, may count on, and follow."""
    from sglang_memserve import limits
    from sglang_memserve.options import InstanceOptions

    if limits.serves_with_memserve(scheduler.server_args):
        caching = InstanceOptions.from_environment().caching
        result["memserve"] = {"room_per_sample": True, "caching": caching.value}
    agent = getattr(scheduler, "memserve_agent", None)
    if agent is not None:
        result["memserve"] = result.get("memserve", {}) | agent.advertised


def identify(result: dict[str, Any], scheduler: Any) -> None:
    """In `/server_info`: what others must have too. After `advertise`."""
    from sglang_memserve.identity import identity

    if "memserve" in result or getattr(scheduler, "memserve_agent", None) is not None:
        result["memserve"] = result.get("memserve", {}) | identity(scheduler)


def last_loc_without_triton(original: Hook, *args: Any, **kwargs: Any) -> Any:
    """SGLang takes a Triton kernel for every attention backend whose name it does not know."""
    from sglang.srt.mem_cache.allocation import get_last_loc_torch

    return get_last_loc_torch(*args, **kwargs)
