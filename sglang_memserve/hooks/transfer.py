"""Where SGLang asks for the classes of the transfer backend, and makes its manager."""

from collections.abc import Callable
from typing import Any

from sglang_memserve import compat
from sglang_memserve.hook_check import require_applied
from sglang_memserve.hooks import caching
from sglang_memserve.hooks.overlap import forward_stream
from sglang_memserve.hooks.scheduler_state import scheduler_state


def kv_class(original: Callable[..., Any], transfer_backend: Any, class_type: Any) -> Any:
    """MemServe's classes for its own backend. Health probes ask for SGLang's FAKE backend on these servers
    too, and must get SGLang's classes.
    """
    if not compat.is_our_backend(transfer_backend):
        return original(transfer_backend, class_type)
    require_applied()
    from sglang.srt.disaggregation.base import KVArgs

    from sglang_memserve.transfer.bootstrap import MemberBootstrapServer
    from sglang_memserve.transfer.manager import MemServeKVManager
    from sglang_memserve.transfer.receiver import MemServeKVReceiver
    from sglang_memserve.transfer.sender import MemServeKVSender

    return {
        "KVARGS": KVArgs,
        "MANAGER": MemServeKVManager,
        "SENDER": MemServeKVSender,
        "RECEIVER": MemServeKVReceiver,
        "BOOTSTRAP_SERVER": MemberBootstrapServer,
    }[class_type.name]


def attach_pool(manager: Any, queue: Any) -> None:
    """After a prefill or decode queue has made its manager: SGLang makes it without the KV pool."""
    from sglang_memserve.transfer.manager import MemServeKVManager

    if isinstance(manager, MemServeKVManager):
        scheduler, pool = queue.scheduler, queue.token_to_kv_pool
        manager.attach_pool(pool, forward_stream(scheduler))
        scheduler_state(scheduler).manager = manager
        manager.attach_agent(caching.attach(scheduler, pool, manager.local_ip, manager.wakeup))
