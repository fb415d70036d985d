"""MemPool: KV blocks of many instances, moved and kept without knowing the engine that computed them.

The names of `__all__` are the public API. Each is loaded when it is first used, so that a program which needs
addresses, errors or the configuration alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool.address import Address, Addresses, Medium, Owner
    from mempool.arena import DramArena
    from mempool.calls import FutureCalls
    from mempool.config import MemPoolConfig
    from mempool.engine import EngineHbm, PublishRequest, ReceivedBlocks
    from mempool.errors import (
        BadAddress,
        DeadlinePassed,
        FrameError,
        LayoutMismatch,
        LeaseExpired,
        MemPoolError,
        NamespaceMismatch,
        OutOfBlocks,
        PeerDied,
        Refused,
        StaleAddress,
        TransferError,
    )
    from mempool.flags import TransferFlags, TransferMode
    from mempool.layout import BlockLayout
    from mempool.membership.errors import JoinFailed, Superseded
    from mempool.membership.messages import InstanceInfo
    from mempool.membership.registry_server import MembershipRegistry
    from mempool.paged import PagedBuffers
    from mempool.pool import MemPool
    from mempool.results import BlockCounts, MatchResult, TransferResult
    from mempool.sockets import SocketLimits
    from mempool.store import BlockSource, BlockStore
    from mempool.tiers.tier import device_buffers, dram_arena
    from mempool.transports.registry import Transports

__all__ = [
    "Address",
    "Addresses",
    "BadAddress",
    "BlockCounts",
    "BlockLayout",
    "BlockSource",
    "BlockStore",
    "DeadlinePassed",
    "DramArena",
    "EngineHbm",
    "FrameError",
    "FutureCalls",
    "InstanceInfo",
    "JoinFailed",
    "LayoutMismatch",
    "LeaseExpired",
    "MatchResult",
    "Medium",
    "MemPool",
    "MemPoolConfig",
    "MemPoolError",
    "MembershipRegistry",
    "NamespaceMismatch",
    "OutOfBlocks",
    "Owner",
    "PagedBuffers",
    "PeerDied",
    "PublishRequest",
    "ReceivedBlocks",
    "Refused",
    "SocketLimits",
    "StaleAddress",
    "Superseded",
    "TransferError",
    "TransferFlags",
    "TransferMode",
    "TransferResult",
    "Transports",
    "device_buffers",
    "dram_arena",
]

# Where each name lives, for `__getattr__`.
_NAMES = {
    "mempool.address": ("Address", "Addresses", "Medium", "Owner"),
    "mempool.arena": ("DramArena",),
    "mempool.calls": ("FutureCalls",),
    "mempool.config": ("MemPoolConfig",),
    "mempool.engine": ("EngineHbm", "PublishRequest", "ReceivedBlocks"),
    "mempool.errors": (
        "BadAddress",
        "DeadlinePassed",
        "FrameError",
        "LayoutMismatch",
        "LeaseExpired",
        "MemPoolError",
        "NamespaceMismatch",
        "OutOfBlocks",
        "PeerDied",
        "Refused",
        "StaleAddress",
        "TransferError",
    ),
    "mempool.flags": ("TransferFlags", "TransferMode"),
    "mempool.layout": ("BlockLayout",),
    "mempool.membership.errors": ("JoinFailed", "Superseded"),
    "mempool.membership.messages": ("InstanceInfo",),
    "mempool.membership.registry_server": ("MembershipRegistry",),
    "mempool.paged": ("PagedBuffers",),
    "mempool.pool": ("MemPool",),
    "mempool.results": ("BlockCounts", "MatchResult", "TransferResult"),
    "mempool.sockets": ("SocketLimits",),
    "mempool.store": ("BlockSource", "BlockStore"),
    "mempool.tiers.tier": ("device_buffers", "dram_arena"),
    "mempool.transports.registry": ("Transports",),
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used."""
    for module, names in _NAMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
