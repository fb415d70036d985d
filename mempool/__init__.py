"""MemPool: KV blocks of many instances, moved and kept without knowing the engine that computed them.

These names are the public API. Each is loaded when it is first used, so that a program which needs addresses,
errors or the configuration alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # What type checkers read. `X as X`: the name is public.
    from mempool.address import Address as Address
    from mempool.address import Addresses as Addresses
    from mempool.address import Medium as Medium
    from mempool.address import Owner as Owner
    from mempool.arena import DramArena as DramArena
    from mempool.calls import FutureCalls as FutureCalls
    from mempool.config import MemPoolConfig as MemPoolConfig
    from mempool.config import PeerQuota as PeerQuota
    from mempool.engine import EngineHbm as EngineHbm
    from mempool.engine import PublishRequest as PublishRequest
    from mempool.engine import ReceivedBlocks as ReceivedBlocks
    from mempool.errors import BadAddress as BadAddress
    from mempool.errors import DeadlinePassed as DeadlinePassed
    from mempool.errors import FrameError as FrameError
    from mempool.errors import LayoutMismatch as LayoutMismatch
    from mempool.errors import LeaseExpired as LeaseExpired
    from mempool.errors import MemPoolError as MemPoolError
    from mempool.errors import NamespaceMismatch as NamespaceMismatch
    from mempool.errors import OutOfBlocks as OutOfBlocks
    from mempool.errors import PeerDied as PeerDied
    from mempool.errors import Refused as Refused
    from mempool.errors import StaleAddress as StaleAddress
    from mempool.errors import TransferError as TransferError
    from mempool.flags import TransferFlags as TransferFlags
    from mempool.flags import TransferMode as TransferMode
    from mempool.layout import BlockLayout as BlockLayout
    from mempool.membership.errors import JoinFailed as JoinFailed
    from mempool.membership.errors import Superseded as Superseded
    from mempool.membership.messages import InstanceInfo as InstanceInfo
    from mempool.membership.registry_server import MembershipRegistry as MembershipRegistry
    from mempool.paged import PagedBuffers as PagedBuffers
    from mempool.pool import MemPool as MemPool
    from mempool.results import BlockCounts as BlockCounts
    from mempool.results import MatchResult as MatchResult
    from mempool.results import TransferResult as TransferResult
    from mempool.sockets import SocketLimits as SocketLimits
    from mempool.sources import FetchSource as FetchSource
    from mempool.store import BlockSource as BlockSource
    from mempool.store import BlockStore as BlockStore
    from mempool.tiers.tier import device_buffers as device_buffers
    from mempool.tiers.tier import dram_arena as dram_arena
    from mempool.transports.registry import Transports as Transports
else:
    # What runs: where each name lives.
    _HOMES = {
        "mempool.address": ("Address", "Addresses", "Medium", "Owner"),
        "mempool.arena": ("DramArena",),
        "mempool.calls": ("FutureCalls",),
        "mempool.config": ("MemPoolConfig", "PeerQuota"),
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
        "mempool.sources": ("FetchSource",),
        "mempool.store": ("BlockSource", "BlockStore"),
        "mempool.tiers.tier": ("device_buffers", "dram_arena"),
        "mempool.transports.registry": ("Transports",),
    }
    __all__ = sorted(name for names in _HOMES.values() for name in names)

    def __getattr__(name: str) -> Any:
        """Loads a public name when it is first used."""
        for module, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(module), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
