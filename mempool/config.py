"""The plain settings of a MemPool. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mempool.encryption import Encryption
from mempool.sockets import SocketLimits


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
        expiry_interval_s: How often leases, transfers and fetches are looked through for overdue ones, in
            seconds.
        limits: When a silent connection counts as dead.
        encrypt: Whether blocks are encrypted on their way. By default they are unless `data_url` is on the
            loopback.
    """

    instance: str
    role: str = "colocated"
    namespace: Mapping[str, str] = field(default_factory=dict)
    registries: Sequence[str] = ()
    control_url: str = "tcp://127.0.0.1:0"
    data_url: str = "stream://127.0.0.1:0"
    expiry_interval_s: float = 0.1
    limits: SocketLimits = field(default_factory=SocketLimits)
    encrypt: Encryption = Encryption.AUTO
