"""The distributed MemPool, as one instance takes part in it."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mempool.address import Addresses, Medium, Owner
from mempool.calls import FutureCalls
from mempool.errors import MemPoolError, PeerDied
from mempool.index.eviction import EvictionPolicy
from mempool.index.keys import Tokens
from mempool.local import LocalPool
from mempool.matched import Counts, Matched
from mempool.membership.member import Member
from mempool.membership.messages import Change, ChangeKind, InstanceInfo, new_incarnation
from mempool.peers import Peers
from mempool.remote.control import Control
from mempool.remote.fetching import Fetching, PublishRequest
from mempool.remote.messages import Caller
from mempool.remote.sending import Flags, Landed, Sending
from mempool.remote.serving import Received, Serving
from mempool.sockets import Limits
from mempool.store import BlockStore, require_sendable
from mempool.tiers.tier import Tier
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports

logger = logging.getLogger(__name__)

_CONTROL, _DATA = "tcp://127.0.0.1:0", "stream://127.0.0.1:0"
_TICK_SECONDS = 0.1


class MemPool:
    """One instance's tiers, index and connections. Calls may come from any thread. `start`: as futures.

    `stores`: the bytes of each medium that this instance has, all of one layout. `namespace`: named digests
    of what decides what the bytes mean (model, KV dtype, ...); an instance whose layout or namespace differs
    is refused by the registries. `control`, `data`: URLs to listen at. `on_received`: see `Serving`.
    `on_hbm`: for an engine that allocates and publishes in HBM itself; there is no store of that medium then.
    What others send there lands in DRAM blocks, which that callback is given, and frees: see `Serving`.
    `on_wanted`: such an engine is asked to publish what others want of its HBM in DRAM: see `PublishRequest`.
    `on_stopped`: a newer incarnation of this instance is there, and this one takes part no more.

    Raises LayoutMismatch, NamespaceMismatch, JoinFailed where no registry takes it, MemPoolError for URLs
    and stores that cannot serve; without registries, `introduce` makes instances known to each other.
    """

    def __init__(
        self,
        instance: str,
        stores: Mapping[Medium, BlockStore],
        *,
        role: str = "colocated",
        namespace: Mapping[str, str] | None = None,
        registries: Sequence[str] = (),
        control: str = _CONTROL,
        data: str = _DATA,
        policy: EvictionPolicy | None = None,
        ttl: float | None = None,
        checksum: bool = False,
        on_received: Callable[[Received], None] | None = None,
        on_hbm: Callable[[Received], None] | None = None,
        on_wanted: Callable[[PublishRequest], None] | None = None,
        on_stopped: Callable[[MemPoolError], None] | None = None,
        limits: Limits | None = None,
        transports: Transports | None = None,
    ) -> None:
        for store in stores.values():
            require_sendable(store.layout)
        if on_hbm is not None and set(stores) != {Medium.DRAM}:
            raise MemPoolError("an engine that owns its HBM needs a DRAM store, and no other")
        limits, transports = limits or Limits(), transports or Transports()
        incarnation = new_incarnation()
        tiers = [Tier.of(Owner(instance, incarnation, medium), store) for medium, store in stores.items()]
        self.local = LocalPool(tiers, policy=policy, ttl=ttl)
        self._peers = Peers()
        self._on_stopped = on_stopped
        self._receiver = BlockReceiver(data, limits=limits, transports=transports)
        self._serving = Serving(self.local, self._receiver, on_received, on_hbm)
        caller = Caller(instance, incarnation)
        self._control = Control(control, caller, self._serving.answer, limits=limits, transports=transports)
        self._sender = BlockSender(checksum=checksum, limits=limits, transports=transports)
        self._sending = Sending(self.local, self._control, self._sender)
        self._fetching = Fetching(self.local, self._peers, self._control, self._sending, on_wanted)
        self._serving.fetching = self._fetching
        self.start = FutureCalls(self.local, self._peers, self._control, self._sending, self._fetching)
        self.info = InstanceInfo(
            instance=instance,
            incarnation=incarnation,
            role=role,
            layout=self.local.layout,
            namespace=dict(namespace or {}),
            control=self._control.endpoint,
            data=self._receiver.endpoint,
        )
        self._closing = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="mempool-clock", daemon=True)
        self._clock.start()
        self._member: Member | None = None
        if registries:
            self._join(registries)

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
        """Leaves. Transfers and questions under way end with PeerDied. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._member is not None:
            self._member.close()
        self._clock.join()
        self._sending.close(PeerDied(self.info.instance, "this instance stops"))
        self._fetching.close(PeerDied(self.info.instance, "this instance stops"))
        self._serving.close()
        self.start.close()
        self._control.close()
        self._sender.close()
        self._receiver.close()
        # Those that another thread began in the meantime.
        self._sending.close(PeerDied(self.info.instance, "this instance stops"))

    def __enter__(self) -> "MemPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def alloc_mem(
        self, size: int, medium: Medium = Medium.HBM, instance: str | None = None, *, seconds: float = 5.0
    ) -> Addresses:
        """`size` blocks here, or of another instance, which holds them for this one. All or nothing.

        Evicts historical KV where it must. Raises OutOfBlocks, PeerDied, DeadlinePassed.
        """
        if instance is None or instance == self.info.instance:
            return self.local.alloc_mem(size, medium)
        return self.start.alloc_mem(size, medium, instance, seconds=seconds).result()

    def free_mem(self, addresses: Addresses | Sequence[Addresses], *, seconds: float = 5.0) -> None:
        """Gives active blocks back, wherever they are.

        Raises BadAddress (freed already, historical, another's), StaleAddress, PeerDied, DeadlinePassed;
        those before the first that fails are free.
        """
        for part in [addresses] if isinstance(addresses, Addresses) else addresses:
            if part.owner.instance == self.info.instance:
                self.local.free_mem(part)
            else:
                self.start.free_mem(part, seconds=seconds).result()

    def insert(
        self, tokens: Tokens, addresses: Addresses | Sequence[Addresses], *, namespace: str = ""
    ) -> list[Addresses]:
        """As `LocalPool.insert`."""
        return self.local.insert(tokens, addresses, namespace)

    def match(self, tokens: Tokens, *, namespace: str = "", lease_seconds: float | None = 30.0) -> Matched:
        """As `LocalPool.match`."""
        return self.local.match(tokens, namespace, lease_seconds=lease_seconds)

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
        flags: Flags | None = None,
        private: bytes = b"",
        *,
        seconds: float = 30.0,
    ) -> Landed:
        """Moves the bytes of this instance's blocks to `instance`, and returns once they are there.

        `target`: blocks that `alloc_mem` gave there; None: the receiver allocates, and holds them for this
        instance unless it has an `on_received`. `private`, at most 64 KiB, comes back in the result and goes
        to that callback. Raises BadAddress, StaleAddress, OutOfBlocks, Refused, PeerDied, DeadlinePassed.
        """
        return self.start.transfer(instance, source, target, flags, private, seconds=seconds).result()

    def transfer_with_insert(
        self,
        instance: str,
        tokens: Tokens,
        source: Addresses | Sequence[Addresses],
        target: Addresses | None = None,
        flags: Flags | None = None,
        private: bytes = b"",
        *,
        namespace: str = "",
        seconds: float = 30.0,
    ) -> Landed:
        """As `transfer`, and the receiver publishes the blocks: the last whole blocks of `tokens`.

        What it has published already is not sent, unless `target` names where to. Those before must be there.
        """
        return self.start.transfer_with_insert(
            instance, tokens, source, target, flags, private, namespace=namespace, seconds=seconds
        ).result()

    def fetch(
        self,
        instance: str,
        tokens: Tokens,
        *,
        namespace: str = "",
        seconds: float = 30.0,
        from_engine: bool = False,
    ) -> int:
        """Has `instance` send what it has published of `tokens`, in any medium of its own, to this instance's
        DRAM, where it is published; what is there already is not sent. Returns how many blocks of the tokens,
        from the first on, `instance` had, and returns once they are here. `from_engine`: where `instance` is
        an engine that owns its HBM, it is asked for what it has only there, and this waits for that.

        Raises PeerDied, Refused, OutOfBlocks, DeadlinePassed.
        """
        return self.start.fetch(
            instance, tokens, namespace=namespace, seconds=seconds, from_engine=from_engine
        ).result()

    def counts(self, medium: Medium) -> Counts:
        return self.local.counts(medium)

    def counters(self) -> dict[str, int]:
        """Now: `incoming`, `outgoing`, `fetching`, `held_blocks`, `leases`; sums of the rest."""
        return {
            "incoming": self._serving.incoming,
            "outgoing": self._sending.outgoing,
            "fetching": self._fetching.asked,
            "held_blocks": self._serving.held_blocks,
            "leases": self.local.index.leases,
            "bytes_sent": self._sender.bytes_sent,
            "messages_sent": self._sender.messages_sent,
            "bytes_received": self._receiver.bytes_received,
            "bad_frames": self._receiver.bad_frames + self._sender.bad_frames + self._control.bad_frames,
            "corrupt": self._receiver.corrupt,
        }

    def _join(self, registries: Sequence[str]) -> None:
        self._member = Member(
            self.info,
            registries,
            on_change=self._changed,
            on_fenced=self._fenced,
            on_stopped=self._stopped,
        )
        try:
            self._member.join()
        except MemPoolError:
            self.close()
            raise
        self._peers.members = self._member.members

    def _changed(self, change: Change) -> None:
        """On the member's thread."""
        assert self._member is not None
        self._peers.members = self._member.members
        info = change.info
        if change.kind in (ChangeKind.DIED, ChangeKind.LEFT):
            self._forget(info.instance, None)
        elif change.kind is ChangeKind.JOINED:
            self._forget(info.instance, info.incarnation)

    def _forget(self, instance: str, keep_incarnation: int | None) -> None:
        self.local.forget(instance, keep_incarnation)
        self._serving.release(instance, keep_incarnation)
        self._sending.release(instance, keep_incarnation)
        self._fetching.release(instance, keep_incarnation)

    def _fenced(self, old: int, new: int) -> None:
        """Others took this instance for dead, and have freed what was its own there: it begins anew."""
        dead = PeerDied(self.info.instance, f"incarnation {old} was declared dead")
        self._sending.close(dead)
        self._serving.close()
        self.local.reset_incarnation(new)
        self._control.caller = Caller(self.info.instance, new)
        # What other threads began between the first close and the new books.
        self._sending.close(dead)
        self._serving.close()
        self.info = msgspec.structs.replace(self.info, incarnation=new)

    def _stopped(self, error: MemPoolError) -> None:
        logger.error("%s takes part no more: %s", self.info.instance, error)
        if self._on_stopped is not None:
            self._on_stopped(error)

    def _tick(self) -> None:
        while not self._closing.wait(_TICK_SECONDS):
            try:
                self.local.expire()
                self._serving.expire()
                self._sending.expire()
                self._fetching.expire()
            except Exception:
                logger.exception("what is overdue")
