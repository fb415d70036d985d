"""The hooks that put MemServe into SGLang's processes, and the check that each took hold.

SGLang only logs a hook whose target is gone, and the server comes up without it. Every process that is about
to serve with MemServe therefore calls `require_applied` first.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from sglang_memserve import compat, samples

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
        HookSpec(f"{_PREFILL}.PrefillBootstrapQueue.add", "AFTER", fetch_what_it_hints_at),
        HookSpec(f"{_DECODE}.DecodePreallocQueue.add", "AFTER", fetch_what_it_hints_at),
        HookSpec(f"{_SCHEDULER}.ingest_requests", "AROUND", tick),
        HookSpec(f"{_SCHEDULER}.get_internal_state", "AFTER", add_counters),
        HookSpec(f"{_SCHEDULER}.get_init_info", "AFTER", advertise),
        HookSpec(f"{_TOKENIZER}._handle_batch_request", "AROUND", samples.count_uses),
        HookSpec(f"{_TOKENIZER}._send_one_request", "AROUND", samples.send_to_room),
        *(_cpu_specs() if on_cpu() else ()),
    )


def _cpu_specs() -> tuple[HookSpec, ...]:
    return (HookSpec("sglang.srt.mem_cache.allocation.get_last_loc", "AROUND", last_loc_without_triton),)


def on_cpu() -> bool:
    """Whether MemServe's CPU platform is the one that SGLang runs on."""
    from sglang.srt.platforms import current_platform

    from sglang_memserve.cpu_platform import MemServeCpuPlatform

    return isinstance(current_platform, MemServeCpuPlatform)


_PREFILL = "sglang.srt.disaggregation.prefill"
_DECODE = "sglang.srt.disaggregation.decode"
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
    from sglang_memserve.transfer.manager import MemServeKVManager
    from sglang_memserve.transfer.prefill import MemServeKVSender

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
        manager.agent = caching_agent(manager, queue.scheduler, queue.token_to_kv_pool)


def caching_agent(manager: Any, scheduler: Any, pool: Any) -> Any:
    """None where nothing is kept but in SGLang's own tree."""
    from sglang_memserve.caching.agent import CachingAgent
    from sglang_memserve.caching.tree import MemServeRadixCache
    from sglang_memserve.kv_pool import paged_buffers
    from sglang_memserve.model.digest import model_digest
    from sglang_memserve.options import InstanceOptions

    options, args, tree = InstanceOptions.from_environment(), scheduler.server_args, scheduler.tree_cache
    if tree.disable or not isinstance(tree, MemServeRadixCache):
        return None
    if args.tp_size > 1:
        logger.warning(
            "with --tp-size > 1 no KV is kept in DRAM yet, and no answers are sent back to prefill"
        )
        return None
    buffers = paged_buffers(pool), paged_buffers(pool)
    return CachingAgent(
        f"{manager.local_ip}:{args.port}",
        args.disaggregation_mode,
        manager.local_ip,
        tree,
        buffers,
        options.dram_beside(buffers[0].device.type),
        options.caching == "3",
        getattr(scheduler, "forward_stream", None),
        manager.wake,
        options.all_registries,
        {"model": model_digest(args.model_path)},
    )


def refuse_what_was_not_admitted(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """SGLang rejects a request at intake without a word to decode, which would wait for it."""
    manager = getattr(queue.scheduler, "memserve_manager", None)
    if manager is not None and req.disagg_kv_sender is None and req.bootstrap_room:
        manager.prefill.refuse_room(req.bootstrap_room, "rejected by the prefill instance")


def fetch_what_it_hints_at(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """A hint must cost no request its answer, whatever is wrong with it."""
    manager = getattr(queue.scheduler, "memserve_manager", None)
    if manager is not None and manager.agent is not None and req.bootstrap_room:
        try:
            manager.agent.arrived(req)
        except Exception:
            logger.exception("the hint of %s", req.rid)


def tick(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Once an iteration, before the scheduler takes in requests.

    While requests wait for a peer and nothing computes, SGLang's loop spins on a whole core, at the cost of
    the threads that would end the wait.
    """
    manager = getattr(scheduler, "memserve_manager", None)
    if manager is not None and manager.agent is not None:
        manager.agent.tick()
    if (
        manager is not None
        and scheduler.is_fully_idle(for_health_check=True)
        and not scheduler.is_fully_idle()
    ):
        manager.wait_for_news()
    return original(scheduler, *args, **kwargs)


def add_counters(result: Any, scheduler: Any, *args: Any) -> None:
    manager = getattr(scheduler, "memserve_manager", None)
    if manager is not None:
        prompts = getattr(scheduler.tree_cache, "prompts", {})
        name = {} if manager.agent is None else {"instance": manager.agent.name}
        result.internal_state["memserve"] = {**manager.counters(), **prompts, **name}


def advertise(result: dict[str, Any], scheduler: Any) -> None:
    """In `/server_info`: what a router may send here and to no stock server."""
    from sglang_memserve import limits

    if limits.serves_with_memserve(scheduler.server_args):
        result["memserve"] = {"room_per_sample": True}


def last_loc_without_triton(original: Hook, *args: Any, **kwargs: Any) -> Any:
    """SGLang takes a Triton kernel for every attention backend whose name it does not know."""
    from sglang.srt.mem_cache.allocation import get_last_loc_torch

    return get_last_loc_torch(*args, **kwargs)
