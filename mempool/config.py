"""The plain settings of a MemPool. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mempool.encryption import Encryption
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.sockets import SocketLimits


@dataclass(frozen=True, kw_only=True)
class PeerQuota:
    """How much an instance keeps and does for others. What would be more is refused, and counted.

    Blocks count while they are allocated for another instance, come from it, or are pinned for it.

    Attributes:
        share_each: The share of a medium's blocks that one other instance may have.
        share: The share that all others may have together. The rest is this instance's own.
        transfers_each: How many transfers and answered fetches may be under way with one other instance.
        transfers: How many with all others together.
        lease_s: After how long without use allocated blocks are taken back, in seconds. Naming any of the
            blocks that were allocated together, in a transfer or to free some, is use.
    """

    share_each: float = 0.75
    share: float = 0.9
    transfers_each: int = 1024
    transfers: int = 4096
    lease_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 < self.share_each <= self.share <= 1:
            raise ValueError(
                f"the share of each other instance is above 0 and at most that of all, which is at most 1, "
                f"not {self.share_each} and {self.share}"
            )
        if not (0 < self.transfers_each <= self.transfers and 0 < self.lease_s < float("inf")):
            raise ValueError(
                f"transfers with each other instance are at least 1 and at most those with all, and a lease "
                f"is above 0 s, not {self.transfers_each}, {self.transfers} and {self.lease_s} s"
            )


@dataclass(frozen=True, kw_only=True)
class MemPoolConfig:
    """Who an instance is, and where it listens.

    Attributes:
        instance: The name of the instance, unique in the cluster: 1 to 128 printable characters.
        role: What the instance does: "prefill", "decode" or "colocated".
        namespace: Named digests of everything that decides what the bytes of a block mean (model, KV dtype,
            LoRA, ...). Registries refuse an instance whose namespace differs from the others'.
        registries: URLs of the registries to join. Without any, `MemPool.introduce` makes instances known.
        control_url: Where to listen for requests of other instances. Port 0 picks a free port.
        data_url: Where to listen for blocks. Port 0 picks a free port.
        fabric_urls: Where else to listen for blocks, best first: ("shm://",) for instances of this host and
            user, which then need a DRAM store that is `shared`. Each is left out where this host cannot.
        expiry_interval_s: How often leases, transfers and fetches are looked through for overdue ones, in
            seconds.
        limits: When a silent connection counts as dead.
        access: The cluster's key. Without one, only addresses of the loopback are listened on.
        quota: How much is kept and done for other instances.
        encrypt: Whether blocks are encrypted on their way. By default they are unless `data_url` is on the
            loopback.
    """

    instance: str
    role: str = "colocated"
    namespace: Mapping[str, str] = field(default_factory=dict)
    registries: Sequence[str] = ()
    control_url: str = "tcp://127.0.0.1:0"
    data_url: str = "stream://127.0.0.1:0"
    fabric_urls: Sequence[str] = ()
    expiry_interval_s: float = 0.1
    limits: SocketLimits = field(default_factory=SocketLimits)
    access: ClusterAccess = LOOPBACK_ONLY
    quota: PeerQuota = field(default_factory=PeerQuota)
    encrypt: Encryption = Encryption.AUTO
