"""The distributed MemPool, as one instance takes part in it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from mempool.address import Addresses, Medium, Owner
from mempool.calls import FutureCalls
from mempool.config import MemPoolConfig
from mempool.engine import EngineHbm, ReceivedBlocks
from mempool.errors import MemPoolError, PeerDied
from mempool.expiry import ExpiryThread
from mempool.flags import TransferFlags
from mempool.index.keys import Tokens
from mempool.local import LocalPool
from mempool.membership.member import MembershipClient
from mempool.membership.messages import Change, ChangeKind, InstanceInfo, new_incarnation
from mempool.peers import PeerDirectory
from mempool.remote.exchange import Exchange
from mempool.results import BlockCounts, MatchResult, TransferResult
from mempool.store import BlockStore, require_sendable
from mempool.tiers.tier import Tier
from mempool.transports.registry import Transports

logger = logging.getLogger(__name__)


class MemPool:
    """One instance's tiers, index and connections: its part in the distributed MemPool.

    Calls may come from any thread. `start` has the same calls as futures. It is a context manager that closes
    the pool.
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
            on_stopped: Hears that a newer incarnation of this instance exists. This one takes part no more.
            transports: The transports by URL scheme. Pools that talk over `inproc://` share one object.

        Raises:
            LayoutMismatch: A registry has instances of another block layout, or the stores differ.
            NamespaceMismatch: A registry has instances of another namespace.
            JoinFailed: No registry took this instance in time.
            MemPoolError: A URL cannot be listened at, or a store cannot be served.
            ValueError: A name or a digest of the configuration is out of bounds.
        """
        _require_servable(stores, engine)
        incarnation = new_incarnation()
        self._on_stopped = on_stopped
        self._peers = PeerDirectory()
        self.local = LocalPool(
            [Tier.of(Owner(config.instance, incarnation, medium), store) for medium, store in stores.items()]
        )
        # Closed in the reverse order, also where one of the later steps fails.
        with ExitStack() as stack:
            self._exchange = exchange = Exchange(
                self.local,
                self._peers,
                config,
                transports or Transports(),
                engine=engine,
                on_received=on_received,
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
            self.info = InstanceInfo(
                instance=config.instance,
                incarnation=incarnation,
                role=config.role,
                layout=self.local.layout,
                namespace=dict(config.namespace),
                control=exchange.control,
                data=exchange.data,
            )
            self._member = self._new_member(config.registries) if config.registries else None
            if self._member is not None:
                stack.callback(self._member.close)
                self._member.join()
                self._peers.set_members(self._member.members)
            self._open = stack.pop_all()

    def introduce(self, info: InstanceInfo) -> None:
        """Makes another instance known: an earlier incarnation of it is dead. Raises LayoutMismatch."""
        self.local.layout.require_same(info.layout)
        self._peers.introduce(info)
        self._forget(info.instance, info.incarnation)

    @property
    def others(self) -> dict[str, InstanceInfo]:
        """The instances that this one may turn to now, by name."""
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
        """`size` blocks here, or of another instance, which holds them for this one. All or nothing.

        Evicts historical KV where it must. Raises OutOfBlocks, PeerDied, DeadlinePassed.
        """
        if instance is None or instance == self.info.instance:
            return self.local.alloc_mem(size, medium)
        return self.start.alloc_mem(size, medium, instance, timeout_s=timeout_s).result()

    def free_mem(self, addresses: Addresses | Sequence[Addresses], *, timeout_s: float = 5.0) -> None:
        """Gives active blocks back, wherever they are.

        Raises BadAddress (freed already, historical, another's), StaleAddress, PeerDied, DeadlinePassed;
        those before the first that fails are free.
        """
        for part in [addresses] if isinstance(addresses, Addresses) else addresses:
            if part.owner.instance == self.info.instance:
                self.local.free_mem(part)
            else:
                self.start.free_mem(part, timeout_s=timeout_s).result()

    def insert(
        self, tokens: Tokens, addresses: Addresses | Sequence[Addresses], *, namespace: str = ""
    ) -> list[Addresses]:
        """As `LocalPool.insert`."""
        return self.local.insert(tokens, addresses, namespace)

    def match(self, tokens: Tokens, *, namespace: str = "", lease_s: float | None = 30.0) -> MatchResult:
        """As `LocalPool.match`."""
        return self.local.match(tokens, namespace, lease_s=lease_s)

    def delete(self, tokens: Tokens, *, namespace: str = "") -> int:
        """As `LocalPool.delete`."""
        return self.local.delete(tokens, namespace)

    def clear(self) -> None:
        """As `LocalPool.clear`."""
        self.local.clear()

    def swap_out(self, num_blocks: int) -> int:
        """As `LocalPool.swap_out`."""
        return self.local.swap_out(num_blocks)

    def swap_in(self, addresses: Addresses) -> Addresses:
        """As `LocalPool.swap_in`."""
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
        """Moves the bytes of this instance's blocks to `instance`, and returns once they are there.

        `target`: blocks that `alloc_mem` gave there; None: the receiver allocates, and holds them for this
        instance unless it has an `on_received`. `private`, at most 64 KiB, comes back in the result and goes
        to that callback. Raises BadAddress, StaleAddress, OutOfBlocks, Refused, PeerDied, DeadlinePassed.
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
        """As `transfer`, and the receiver publishes the blocks: the last whole blocks of `tokens`.

        What it has published already is not sent, unless `target` names where to. Those before must be there.
        """
        return self.start.transfer_with_insert(
            instance, tokens, source, target, flags, private, namespace=namespace, timeout_s=timeout_s
        ).result()

    def fetch(
        self,
        instance: str,
        tokens: Tokens,
        *,
        namespace: str = "",
        timeout_s: float = 30.0,
        from_engine: bool = False,
    ) -> int:
        """Has `instance` send what it has published of `tokens`, in any medium of its own, to this instance's
        DRAM, where it is published; what is there already is not sent. Returns how many blocks of the tokens,
        from the first on, `instance` had, and returns once they are here. `from_engine`: where `instance` is
        an engine that owns its HBM, it is asked for what it has only there, and this waits for that.

        Raises PeerDied, Refused, OutOfBlocks, DeadlinePassed.
        """
        return self.start.fetch(
            instance, tokens, namespace=namespace, timeout_s=timeout_s, from_engine=from_engine
        ).result()

    def counts(self, medium: Medium) -> BlockCounts:
        return self.local.counts(medium)

    def counters(self) -> dict[str, int]:
        """Now: `incoming`, `outgoing`, `fetching`, `held_blocks`, `leases`; sums of the rest."""
        return {**self._exchange.counters(), "leases": self.local.index.leases}

    def _new_member(self, registries: Sequence[str]) -> MembershipClient:
        return MembershipClient(
            self.info,
            registries,
            on_change=self._changed,
            on_fenced=self._fenced,
            on_stopped=self._stopped,
        )

    def _changed(self, change: Change) -> None:
        """On the member's thread."""
        assert self._member is not None
        self._peers.set_members(self._member.members)
        info = change.info
        if change.kind in (ChangeKind.DIED, ChangeKind.LEFT):
            self._forget(info.instance, None)
        elif change.kind is ChangeKind.JOINED:
            self._forget(info.instance, info.incarnation)

    def _forget(self, instance: str, keep_incarnation: int | None) -> None:
        self.local.forget(instance, keep_incarnation)
        self._exchange.release(instance, keep_incarnation)

    def _fenced(self, old: int, new: int) -> None:
        """Others took this instance for dead, and have freed what was its own there: it begins anew."""
        dead = PeerDied(self.info.instance, f"incarnation {old} was declared dead")
        self._exchange.abort(dead)
        self.local.reset_incarnation(new)
        # What other threads began before the incarnation changed.
        self._exchange.abort(dead)
        self.info = msgspec.structs.replace(self.info, incarnation=new)

    def _stopped(self, error: MemPoolError) -> None:
        logger.error("%s takes part no more: %s", self.info.instance, error)
        if self._on_stopped is not None:
            self._on_stopped(error)


def _require_servable(stores: Mapping[Medium, BlockStore], engine: EngineHbm | None) -> None:
    for store in stores.values():
        require_sendable(store.layout)
    if engine is not None and set(stores) != {Medium.DRAM}:
        raise MemPoolError("an engine that owns its HBM needs a DRAM store, and no other")
