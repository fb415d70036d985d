"""What a caching agent is started with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mempool.encryption import Encryption
from mempool.endpoints import SHM_URL
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess

# DRAM for blocks under way, where DRAM is no tier.
_STAGING = "64MiB"


@dataclass(frozen=True, kw_only=True)
class CachingAgentConfig:
    """`name`: the instance's in the MemPool, its address and port. `role`: prefill, decode or colocated.

    `host`: the address that the agent's sockets listen at. `dram`: the size of the DRAM tier, as
    `mempool.tiers.sizes.blocks_of_size` takes it; "0" for no tier. `writes_back`: whether decode sends
    answers back to prefill. `registries`, `namespace`: see `MemPool`. `max_bandwidth`: the bytes a second
    that are sent to each other instance at most; 0 for no bound. `encrypt`, `fabric_urls`: as in
    `MemPoolConfig`.
    Ports: 0 for a free one. `access`: whom it hears, and as whom it connects.
    """

    name: str
    role: str
    host: str
    dram: str
    writes_back: bool
    registries: Sequence[str] = ()
    namespace: Mapping[str, str] = field(default_factory=dict)
    max_bandwidth: int = 0
    encrypt: Encryption = Encryption.AUTO
    fabric_urls: Sequence[str] = ()
    feed_port: int = 0
    control_port: int = 0
    block_port: int = 0
    access: ClusterAccess = LOOPBACK_ONLY

    @property
    def uses_shm(self) -> bool:
        """Whether instances of this host and user read DRAM in place."""
        return SHM_URL in self.fabric_urls

    @property
    def publishes(self) -> bool:
        """Whether DRAM is a tier: what is copied there is published, and can be fetched by others."""
        return self.dram != "0"

    @property
    def arena_size(self) -> str:
        return self.dram if self.publishes else _STAGING
