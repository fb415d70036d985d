"""MemPool: one instance's part in the distributed pool of KV blocks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from mempool.address import Addresses, Medium, Owner
from mempool.calls import FutureCalls
from mempool.cluster import ClusterMembership
from mempool.config import MemPoolConfig
from mempool.engine import EngineHbm, ReceivedBlocks
from mempool.errors import MemPoolError, PeerDied
from mempool.expiry import ExpiryThread
from mempool.flags import TransferFlags
from mempool.index.keys import Tokens
from mempool.local import LocalPool
from mempool.membership.messages import InstanceInfo, new_incarnation
from mempool.peers import PeerDirectory
from mempool.remote.exchange import PeerExchange
from mempool.results import BlockCounts, MatchResult, TransferResult
from mempool.sources import FetchSource
from mempool.store import BlockStore, require_servable
from mempool.tiers.tier import Tier
from mempool.transports.registry import Transports


class MemPool:
    """One instance's tiers, index and connections: its part in the distributed MemPool.

    Its nine calls follow the MemServe paper (arXiv 2406.17565). They may come from any thread, and return
    when they are done. A MemPool is a context manager that closes itself.

    Attributes:
        start: The same calls as futures.
        local: The part that needs no other instance.
    """

    def __init__(
        self,
        config: MemPoolConfig,
        *,
        stores: Mapping[Medium, BlockStore],
        engine: EngineHbm | None = None,
        on_received: Callable[[ReceivedBlocks], None] | None = None,
        on_stopped: Callable[[MemPoolError], None] | None = None,
        transports: Transports | None = None,
    ) -> None:
        """Listens, and joins the registries.

        Args:
            config: Who this instance is, and where it listens.
            stores: The bytes of each medium that this instance has, all of one layout.
            engine: An engine that allocates and publishes in HBM itself. `stores` has DRAM alone then.
            on_received: Called with blocks that arrive, on the receiver's thread. Blocks without tokens are
                its from then on; without a callback they are held for their sender.
            on_stopped: Hears that another process has taken the place of this one, for good.
            transports: The transports by URL scheme. Pools that talk over `inproc://` share one object.

        Raises:
            LayoutMismatch: A registry has instances of another block layout, or the stores differ.
            NamespaceMismatch: A registry has instances of another namespace.
            JoinFailed: No registry took this instance in time.
            MemPoolError: A URL cannot be listened at, or a store cannot be served.
            ValueError: A name or a digest of the configuration is out of bounds.
        """
        require_servable(stores, engine_owns_hbm=engine is not None)
        access, incarnation = replace(config.access, name=config.instance), new_incarnation()
        self._peers = PeerDirectory()
        self.local = LocalPool(
            [Tier.of(Owner(config.instance, incarnation, medium), store) for medium, store in stores.items()]
        )
        # Closed in the reverse order, also where one of the later steps fails.
        with ExitStack() as stack:
            channels = transports or Transports(access=access)
            self._exchange = exchange = PeerExchange(
                self.local, self._peers, config, channels, engine=engine, on_received=on_received
            )
            stack.callback(exchange.close)
            self.start = FutureCalls(
                self.local, self._peers, exchange.requests, exchange.sending, exchange.fetching
            )
            stack.callback(self.start.close)
            stack.callback(exchange.end_calls, PeerDied(config.instance, "this instance stops"))
            stack.callback(
                ExpiryThread([self.local.expire, exchange.expire], interval_s=config.expiry_interval_s).close
            )
            info = InstanceInfo(
                instance=config.instance,
                incarnation=incarnation,
                role=config.role,
                layout=self.local.layout,
                namespace=dict(config.namespace),
                control=exchange.control,
                data=exchange.data,
                fabrics=exchange.fabrics,
            )
            self._cluster = ClusterMembership(
                info,
                self.local,
                self._peers,
                exchange,
                registries=config.registries,
                access=access,
                on_stopped=on_stopped,
            )
            stack.callback(self._cluster.close)
            self._cluster.join()
            self._open = stack.pop_all()

    def introduce(self, info: InstanceInfo) -> None:
        """Makes another instance known, for pools without a registry.

        An earlier incarnation of that instance is dead from now on.

        Raises:
            MemPoolError: LayoutMismatch or NamespaceMismatch: its blocks are not as this instance's.
        """
        self._cluster.introduce(info)

    @property
    def info(self) -> InstanceInfo:
        """What the other instances know of this one."""
        return self._cluster.info

    @property
    def others(self) -> dict[str, InstanceInfo]:
        """The other instances that are alive and not silent, by name."""
        return self._peers.all()

    def close(self) -> None:
        """Leaves the cluster. Calls under way end with PeerDied. Idempotent."""
        self._open.close()

    def __enter__(self) -> "MemPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def alloc_mem(
        self, size: int, medium: Medium = Medium.HBM, instance: str | None = None, *, timeout_s: float = 5.0
    ) -> Addresses:
        """Allocates blocks here, or at another instance. It gives all of them or none.

        Historical KV is evicted first where free blocks do not suffice.

        Args:
            size: How many blocks.
            medium: Where they are to be.
            instance: The instance that gives them, and holds them while they are used. None: this instance.
            timeout_s: How long another instance may take, in seconds.

        Returns:
            The addresses of `size` active blocks.

        Raises:
            OutOfBlocks: The medium cannot give that many, even by eviction, or by the owner's `PeerQuota`.
            PeerDied: The other instance is unknown, silent or dead.
            DeadlinePassed: The other instance did not answer in time. What it gives later is given back.
            ValueError: `size` is negative, or more than one message carries.
        """
        if instance is None or instance == self.info.instance:
            return self.local.alloc_mem(size, medium)
        return self.start.alloc_mem(size, medium, instance, timeout_s=timeout_s).result()

    def free_mem(self, addresses: Addresses | Sequence[Addresses], *, timeout_s: float = 5.0) -> None:
        """Gives active blocks back, wherever they are.

        Args:
            addresses: The blocks. Parts of several owners are given back one after the other.
            timeout_s: How long another instance may take, in seconds.

        Raises:
            BadAddress: A block is free already, historical, or another's. The parts before it are free.
            StaleAddress: The incarnation of the address has ended.
            PeerDied: The other instance is unknown, silent or dead.
            DeadlinePassed: The other instance did not answer in time.
        """
        for part in [addresses] if isinstance(addresses, Addresses) else addresses:
            if part.owner.instance == self.info.instance:
                self.local.free_mem(part)
            else:
                self.start.free_mem(part, timeout_s=timeout_s).result()

    def insert(
        self, tokens: Tokens, addresses: Addresses | Sequence[Addresses], *, namespace: str = ""
    ) -> list[Addresses]:
        """Publishes blocks: active KV becomes historical, and `match` finds it. Idempotent.

        Args:
            tokens: Token ids, `[n]`. A tail of less than a block is ignored.
            addresses: The blocks with the KV of the last whole blocks of the tokens. The blocks before them
                must be published already.
            namespace: Keeps sequences with the same tokens but other KV apart (LoRA, salt, ...).

        Returns:
            The blocks whose place in the index is taken. They stay the caller's, who frees them.

        Raises:
            BadAddress: A block of this instance is not active, or is published elsewhere.
            StaleAddress: The incarnation of the address has ended.
            ValueError: There are more blocks than the tokens have, or blocks before them are missing.
        """
        return self.local.insert(tokens, addresses, namespace)

    def match(self, tokens: Tokens, *, namespace: str = "", lease_s: float | None = 30.0) -> MatchResult:
        """Finds the longest published prefix of `tokens`, in whole blocks.

        Args:
            tokens: Token ids, `[n]`.
            namespace: As for `insert`.
            lease_s: For how long the blocks are kept from eviction, in seconds. None: they are not kept.

        Returns:
            The blocks, and their lease. Release it, or use the result as a context manager.

        Raises:
            ValueError: A token is negative, or does not fit in int32.
        """
        return self.local.match(tokens, namespace, lease_s=lease_s)

    def delete(self, tokens: Tokens, *, namespace: str = "") -> int:
        """Unpublishes `tokens` and all sequences that continue them.

        Blocks under a lease are reused only after its end.

        Args:
            tokens: Token ids, `[n]`.
            namespace: As for `insert`.

        Returns:
            How many blocks were unpublished.
        """
        return self.local.delete(tokens, namespace)

    def clear(self) -> None:
        """Unpublishes everything. Blocks under a lease are reused only after its end."""
        self.local.clear()

    def swap_out(self, num_blocks: int) -> int:
        """Moves historical KV from HBM to DRAM, the least recently used first.

        Blocks that find no room in DRAM are dropped.

        Args:
            num_blocks: How many blocks to move.

        Returns:
            How many blocks left HBM. They are fewer than `num_blocks` where the rest is leased.

        Raises:
            OutOfBlocks: This instance has no HBM of its own.
        """
        return self.local.swap_out(num_blocks)

    def swap_in(self, addresses: Addresses) -> Addresses:
        """Copies published DRAM blocks to HBM, and publishes the copies there too.

        The blocks in DRAM stay. Hold the lease that `match` gave.

        Args:
            addresses: Published blocks in DRAM.

        Returns:
            The blocks in HBM, in the same order.

        Raises:
            OutOfBlocks: HBM cannot give that many blocks.
            BadAddress: A block is not published, or not any more.
        """
        return self.local.swap_in(addresses)

    def transfer(
        self,
        instance: str,
        source: Addresses | Sequence[Addresses],
        target: Addresses | None = None,
        flags: TransferFlags | None = None,
        private: bytes = b"",
        *,
        timeout_s: float = 30.0,
    ) -> TransferResult:
        """Sends the bytes of this instance's blocks to another, and returns once they are there.

        Args:
            instance: The receiver.
            source: Blocks of this instance, of any of its media.
            target: Blocks that `alloc_mem` gave there. None: the receiver allocates, and holds the blocks for
                this instance unless it has an `on_received`.
            flags: The medium at the receiver, the mode, and whether the source moves.
            private: The caller's cookie, at most 64 KiB, for the receiver's callback. The result has it too.
            timeout_s: How long the transfer may take, in seconds.

        Returns:
            Where the blocks are.

        Raises:
            BadAddress: A source block is not this instance's, or a target block is not held for it.
            StaleAddress: The incarnation of an address has ended.
            OutOfBlocks: The receiver cannot give that many blocks.
            Refused: The receiver does not accept the blocks, or gave them up.
            PeerDied: The receiver is unknown, silent or dead.
            DeadlinePassed: The blocks did not arrive in time.
            ValueError: The cookie or the number of blocks is more than one message carries.
        """
        return self.start.transfer(instance, source, target, flags, private, timeout_s=timeout_s).result()

    def transfer_with_insert(
        self,
        instance: str,
        tokens: Tokens,
        source: Addresses | Sequence[Addresses],
        target: Addresses | None = None,
        flags: TransferFlags | None = None,
        private: bytes = b"",
        *,
        namespace: str = "",
        timeout_s: float = 30.0,
    ) -> TransferResult:
        """As `transfer`, and the receiver publishes the blocks, in one round trip.

        Blocks that the receiver has published already are not sent, unless `target` says where to.

        Args:
            instance: The receiver.
            tokens: Token ids, `[n]`. The source has the KV of their last whole blocks; the receiver must have
                published the blocks before.
            source: Blocks of this instance, of any of its media.
            target: Blocks that `alloc_mem` gave there. None: the receiver allocates.
            flags: As for `transfer`, and how long the receiver keeps the blocks from eviction.
            private: The caller's cookie, at most 64 KiB.
            namespace: As for `insert`.
            timeout_s: How long the transfer may take, in seconds.

        Returns:
            Where the sent blocks are, and how many blocks before them the receiver had.

        Raises:
            MemPoolError: As for `transfer`. Refused also where the blocks before are missing there.
            ValueError: A token, the cookie or the pin is out of bounds.
        """
        return self.start.transfer_with_insert(
            instance, tokens, source, target, flags, private, namespace=namespace, timeout_s=timeout_s
        ).result()

    def fetch(
        self,
        source: str | Sequence[FetchSource],
        tokens: Tokens,
        *,
        namespace: str = "",
        timeout_s: float = 30.0,
        from_engine: bool = False,
    ) -> int:
        """Fetches published KV of other instances to this instance's DRAM, and publishes it here.

        Blocks that are here already are not sent. It returns once all blocks are here. Several sources send a
        part each. Where a part is lost, those before it are kept, and those behind it are freed.

        Args:
            source: The instance that has the KV, in any of its media; or up to 8 that have it.
            tokens: Token ids, `[n]`.
            namespace: As for `insert`.
            timeout_s: How long the fetch may take, in seconds.
            from_engine: Asks the source's engine to publish what only its HBM has, and waits for it.

        Returns:
            How many blocks of the tokens, from the first on, the source had; of several: are here in the end.

        Raises:
            PeerDied: The source is unknown, silent or dead. Of several, this and the next: no part came.
            Refused: The source does not know this instance.
            OutOfBlocks: There is no room for the blocks.
            DeadlinePassed: The blocks did not arrive in time.
            ValueError: Sources are too many, none, or named twice.
        """
        return self.start.fetch(
            source, tokens, namespace=namespace, timeout_s=timeout_s, from_engine=from_engine
        ).result()

    def counts(self, medium: Medium) -> BlockCounts:
        """How many blocks of a medium are free, active and historical.

        Raises:
            OutOfBlocks: This instance has no such medium.
        """
        return self.local.counts(medium)

    def counters(self) -> dict[str, int]:
        """Numbers by name: what is under way now, and sums since the start.

        Now: `incoming`, `outgoing`, `fetching`, `held_blocks`, `leases`. Sums: `bytes_sent`, `messages_sent`,
        `fabric_fallbacks`, `bytes_received`, `bad_frames`, `lost_parts` (of fetches), `refused_connections`
        (strangers'), `peer_refusals` (over quota, false names), `errors` (all logged).
        """
        return {**self._exchange.counters(), "leases": self.local.index.leases}
