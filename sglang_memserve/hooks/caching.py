"""Where SGLang's scheduler meets the caching agent. Imported in all of its processes: nothing heavy here."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sglang_memserve.hook_check import require_applied
from sglang_memserve.hooks.overlap import forward_stream
from sglang_memserve.hooks.scheduler_state import scheduler_state

if TYPE_CHECKING:
    from sglang_memserve.caching.agent import CachingAgent
    from sglang_memserve.scheduler_wakeup import SchedulerWakeup

logger = logging.getLogger(__name__)


def attach(scheduler: Any, pool: Any, host: str, wakeup: "SchedulerWakeup") -> "CachingAgent | None":
    """The scheduler's agent from now on; None where KV is kept in SGLang's own tree alone."""
    from sglang_memserve.caching.agent import CachingAgent
    from sglang_memserve.caching.config import CachingAgentConfig
    from sglang_memserve.kv_pool import paged_buffers
    from sglang_memserve.model.digest import model_digest
    from sglang_memserve.options import InstanceOptions

    state = scheduler_state(scheduler)
    state.agent, state.wakeup = None, wakeup
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
        encrypt=options.encrypt,
        fabric_urls=options.fabric_urls,
        feed_port=options.feed_port,
        control_port=options.control_port,
        block_port=options.block_port,
        access=options.access(f"{host}:{args.port}"),
    )
    state.agent = CachingAgent(
        config,
        tree=tree,
        buffers=buffers,
        forward_stream=forward_stream(scheduler),
        wake=wakeup.wake,
        decode=None if tokenizer is None else tokenizer.decode,
    )
    return state.agent


def role_of(args: Any) -> str:
    return "colocated" if args.disaggregation_mode == "null" else str(args.disaggregation_mode)


def attach_colocated(scheduler: Any) -> None:
    """Attaches the agent of a colocated server, once its pool and its tree are there. The queues of a prefill
    or decode server attach theirs themselves.

    A colocated server serves whatever SGLang does: KV that the MemPool cannot carry stays in the tree.
    """
    if scheduler.server_args.disaggregation_mode != "null" or not _is_ours(scheduler.tree_cache):
        return
    from sglang.srt.utils.network import get_local_ip_auto

    from mempool.endpoints import is_loopback_host
    from sglang_memserve import limits
    from sglang_memserve.scheduler_wakeup import SchedulerWakeup

    require_applied()
    pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
    try:
        limits.refuse_unsupported_args(scheduler.server_args)
        limits.refuse_unsupported_pool(pool, [])
    except limits.Unsupported as reason:
        logger.warning("KV is kept on the device only, by SGLang's own cache: %s", reason)
        return
    host = scheduler.server_args.host
    attach(scheduler, pool, host if is_loopback_host(host) else get_local_ip_auto(), SchedulerWakeup())


def _is_ours(tree: Any) -> bool:
    from sglang_memserve.caching.tree import MemServeRadixCache

    return isinstance(tree, MemServeRadixCache) and not tree.disable


def fetch_for_queue(queue: Any, req: Any) -> None:
    """After a prefill or decode instance has queued a request."""
    if req.bootstrap_room:
        _fetch(queue.scheduler, req)


def fetch_for_colocated(result: object, scheduler: Any, req: Any, *args: Any, **kwargs: Any) -> None:
    """After a colocated instance has queued a request, or rejected it."""
    waiting = scheduler.waiting_queue
    if scheduler.server_args.disaggregation_mode == "null" and waiting and waiting[-1] is req:
        _fetch(scheduler, req)


def _fetch(scheduler: Any, req: Any) -> None:
    """Starts to fetch what the request's hint names. A bad hint must not cost the request its answer."""
    agent = scheduler_state(scheduler).agent
    if agent is not None:
        try:
            agent.on_arrival(req)
        except Exception:
            logger.exception("the fetch for %s could not start", req.rid)


@contextlib.contextmanager
def without_held(scheduler: Any) -> Iterator[None]:
    """In the block, a colocated instance's queue is without the requests that wait for a fetch.

    Those of a prefill or decode instance wait before they come to this queue.
    """
    held = _held(scheduler)
    if not held:
        yield
        return
    waiting = scheduler.waiting_queue
    scheduler.waiting_queue = [req for req in waiting if req not in held]
    try:
        yield
    finally:
        scheduler.waiting_queue = held + scheduler.waiting_queue


def _held(scheduler: Any) -> list[Any]:
    agent = scheduler_state(scheduler).agent
    if agent is None or scheduler.server_args.disaggregation_mode != "null":
        return []
    held: list[Any] = agent.waiting_for_fetch(scheduler.waiting_queue)
    return held


def tick(scheduler: Any) -> None:
    """Once an iteration.

    While requests wait for another instance and nothing computes, SGLang's loop would spin on a whole core,
    at the cost of the threads that end the wait.
    """
    state = scheduler_state(scheduler)
    if state.wakeup is not None:
        state.wakeup.poll_with(getattr(scheduler, "idle_sleeper", None))
    if state.agent is not None:
        state.agent.tick()
    if state.wakeup is not None and _only_waits(scheduler):
        state.wakeup.wait()


def _only_waits(scheduler: Any) -> bool:
    if scheduler.is_fully_idle(for_health_check=True):
        return not scheduler.is_fully_idle()
    held = _held(scheduler)
    if not held or len(held) < len(scheduler.waiting_queue):
        return False
    return bool(scheduler.is_fully_idle(for_health_check=True, ignore_waiting=True))
