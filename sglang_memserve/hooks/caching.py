"""Where SGLang's scheduler meets the caching agent. Imported in all of its processes: nothing heavy here."""

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

Hook = Callable[..., Any]


def attach(scheduler: Any, pool: Any, host: str, news: Any) -> Any:
    """The scheduler's agent, which is `scheduler.memserve_agent` from now on.

    None where nothing is kept but in SGLang's own tree.
    """
    from sglang_memserve.caching.agent import CachingAgent
    from sglang_memserve.caching.config import CachingAgentConfig
    from sglang_memserve.kv_pool import paged_buffers
    from sglang_memserve.model.digest import model_digest
    from sglang_memserve.options import InstanceOptions

    scheduler.memserve_agent, scheduler.memserve_news = None, news
    options, args, tree = InstanceOptions.from_environment(), scheduler.server_args, scheduler.tree_cache
    if not _is_ours(tree):
        return None
    if args.tp_size > 1:
        logger.warning("with --tp-size > 1 no KV is kept in DRAM yet, fetched, or sent back to prefill")
        return None
    buffers = paged_buffers(pool), paged_buffers(pool)
    tokenizer = getattr(scheduler, "tokenizer", None)
    config = CachingAgentConfig(
        name=f"{host}:{args.port}",
        role=role_of(args),
        host=host,
        dram=options.dram_for(buffers[0].device.type),
        writes_back=options.caching.writes_back,
        registries=options.all_registries,
        namespace={"model": model_digest(args.model_path)},
        max_bandwidth=options.max_bytes_per_second,
    )
    scheduler.memserve_agent = CachingAgent(
        config,
        tree=tree,
        buffers=buffers,
        forward_stream=getattr(scheduler, "forward_stream", None),
        wake=news.wake,
        decode=None if tokenizer is None else tokenizer.decode,
    )
    return scheduler.memserve_agent


def role_of(args: Any) -> str:
    return "colocated" if args.disaggregation_mode == "null" else str(args.disaggregation_mode)


def attach_colocated(result: object, scheduler: Any) -> None:
    """A server that is not split, once its pool and its tree are there: the queues of a split attach theirs
    themselves. Whatever SGLang serves is served; what the MemPool cannot carry is kept by the tree alone.
    """
    if scheduler.server_args.disaggregation_mode != "null" or not _is_ours(scheduler.tree_cache):
        return
    from sglang.srt.utils.network import get_local_ip_auto

    from sglang_memserve import limits
    from sglang_memserve.hooks.table import require_applied
    from sglang_memserve.launch_server import is_loopback
    from sglang_memserve.news import News

    require_applied()
    pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
    try:
        limits.refuse_unsupported_args(scheduler.server_args)
        limits.refuse_unsupported_pool(pool, [])
    except limits.Unsupported as reason:
        logger.warning("KV is kept on the device only, by SGLang's own cache: %s", reason)
        return
    host = scheduler.server_args.host
    attach(scheduler, pool, host if is_loopback(host) else get_local_ip_auto(), News())


def _is_ours(tree: Any) -> bool:
    from sglang_memserve.caching.tree import MemServeRadixCache

    return isinstance(tree, MemServeRadixCache) and not tree.disable


def fetch_for_queue(result: object, queue: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """Of a prefill or decode instance's queue of those that arrived."""
    if req.bootstrap_room:
        _fetch(queue.scheduler, req)


def fetch_for_colocated(result: object, scheduler: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    waiting = scheduler.waiting_queue
    if scheduler.server_args.disaggregation_mode == "null" and waiting and waiting[-1] is req:
        _fetch(scheduler, req)


def _fetch(scheduler: Any, req: Any) -> None:
    """What may be found elsewhere must cost no request its answer, whatever is wrong with a hint."""
    agent = getattr(scheduler, "memserve_agent", None)
    if agent is not None:
        try:
            agent.on_arrival(req)
        except Exception:
            logger.exception("what %s could find elsewhere", req.rid)


def leave_out_held(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """A colocated instance's new batch, made up without the requests that wait for a fetch.

    Those of a split wait before they come to this queue.
    """
    held = _held(scheduler)
    if not held:
        return original(scheduler, *args, **kwargs)
    waiting = scheduler.waiting_queue
    scheduler.waiting_queue = [req for req in waiting if req not in held]
    try:
        return original(scheduler, *args, **kwargs)
    finally:
        scheduler.waiting_queue = held + scheduler.waiting_queue


def _held(scheduler: Any) -> list[Any]:
    agent = getattr(scheduler, "memserve_agent", None)
    if agent is None or scheduler.server_args.disaggregation_mode != "null":
        return []
    held: list[Any] = agent.waiting_for_fetch(scheduler.waiting_queue)
    return held


def tick(original: Hook, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Once an iteration. While requests wait for a peer and nothing computes, SGLang's loop spins on a whole
    core, at the cost of the threads that would end the wait.
    """
    agent, news = getattr(scheduler, "memserve_agent", None), getattr(scheduler, "memserve_news", None)
    if news is not None:
        news.attend(getattr(scheduler, "idle_sleeper", None))
    if agent is not None:
        agent.tick()
    if news is not None and _only_waits(scheduler):
        news.wait()
    return original(scheduler, *args, **kwargs)


def _only_waits(scheduler: Any) -> bool:
    if scheduler.is_fully_idle(for_health_check=True):
        return not scheduler.is_fully_idle()
    held = _held(scheduler)
    if not held or len(held) < len(scheduler.waiting_queue):
        return False
    return bool(scheduler.is_fully_idle(for_health_check=True, ignore_waiting=True))
