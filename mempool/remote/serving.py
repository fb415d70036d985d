"""Serves the requests of other instances: to allocate, to free, and to send blocks that are published."""

import time
from collections.abc import Callable
from typing import NamedTuple

from mempool.address import Addresses, Medium
from mempool.engine import EngineHbm, ReceivedBlocks
from mempool.errors import BadAddress, MemPoolError, Refused, TransferError
from mempool.local import LocalPool
from mempool.remote import messages
from mempool.remote.fetching import Fetching
from mempool.remote.held import HeldBlocks
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import (
    Admitted,
    Allocated,
    AllocMem,
    Call,
    Caller,
    Done,
    Failed,
    FetchEnded,
    FetchRequest,
    FreeMem,
    Offer,
)
from mempool.remote.pins import PeerPins
from mempool.results import MatchResult
from mempool.tiers.copies import pages_of
from mempool.tiers.tier import Tier
from mempool.transfer.receiver import BlockReceiver
from mempool.wire import short


class _Incoming(NamedTuple):
    caller: Caller
    offer: Offer
    tier: Tier
    addresses: Addresses
    # Keeps the blocks before the offered ones published meanwhile.
    head: MatchResult | None
    deadline: float


class Serving:
    """
    Blocks that were allocated for another instance are held for it, and for nobody else: until it frees them,
    until they are published, until it is dead, or until it has not used them for the time of a lease. Those
    that it sent without tokens are too, where there is no `on_received`; otherwise they are that callback's
    from then on, which runs on the receiver's thread. `ledger` says how much of all that is too much.

    `engine`: HBM is the engine's, which alone allocates and publishes there. Blocks sent there land in DRAM,
    and go to its `on_received`. `namespace`: the digest of what this instance's blocks mean; what has another
    is refused.
    """

    def __init__(
        self,
        local: LocalPool,
        receiver: BlockReceiver,
        fetching: Fetching,
        *,
        ledger: PeerLedger,
        namespace: bytes = b"",
        on_received: Callable[[ReceivedBlocks], None] | None = None,
        engine: EngineHbm | None = None,
    ) -> None:
        self._local = local
        self._receiver = receiver
        self._on_received = on_received
        self._engine = engine
        self._fetching = fetching
        self._namespace = namespace
        self._ledger = ledger
        self._held = HeldBlocks(ledger)
        self._pins = PeerPins(ledger)
        self._incoming: dict[int, _Incoming] = {}

    def answer(self, call: Call) -> messages.ControlReply:
        """On the control thread."""
        try:
            if isinstance(call.request, AllocMem):
                return self._alloc(call.caller, call.request)
            if isinstance(call.request, FreeMem):
                return self._free(call.caller, call.request)
            if isinstance(call.request, (FetchRequest, FetchEnded)):
                return self._fetching.answer(call, call.request)
            return self._admit(call, call.request)
        except (MemPoolError, ValueError) as error:
            return Failed(
                kind=type(error).__name__ if isinstance(error, MemPoolError) else Refused.__name__,
                medium=getattr(call.request, "medium", Medium.DRAM),
                incarnation=self._local.incarnation,
                cause=short(getattr(error, "cause", str(error))),
            )

    def expire(self) -> None:
        """Gives up transfers that did not arrive by their deadline, parts that are of no use any more, and
        blocks whose lease has ended.
        """
        now = time.monotonic()
        self._withdraw(
            [
                ticket
                for ticket, each in list(self._incoming.items())
                if each.deadline < now or self._is_unwanted_part(each.offer)
            ]
        )
        with self._local.lock:
            self._pins.expire()
            self._free_held(self._held.take_overdue())

    def release(self, instance: str, keep_incarnation: int | None = None) -> None:
        """Frees the blocks held for a dead instance, and gives up its transfers."""

        def is_dead(caller: Caller) -> bool:
            return caller.instance == instance and caller.incarnation != keep_incarnation

        self._withdraw([ticket for ticket, each in list(self._incoming.items()) if is_dead(each.caller)])
        with self._local.lock:
            self._pins.release(is_dead)
            self._free_held(self._held.take_of(is_dead))

    def release_all(self) -> None:
        """Nothing that is under way lands any more, and nothing is held."""
        self._withdraw(list(self._incoming))
        with self._local.lock:
            self._pins.release(lambda _: True)
            self._held.take_of(lambda _: True)

    @property
    def held_blocks(self) -> int:
        return len(self._held)

    @property
    def incoming(self) -> int:
        """Transfers that were admitted and have not ended."""
        return len(self._incoming)

    def _alloc(self, caller: Caller, request: AllocMem) -> Allocated:
        self._require_room(caller, request.medium, request.count)
        addresses = self._local.alloc_mem(request.count, request.medium)
        with self._local.lock:
            # Block numbers of an incarnation that has ended belong to others now.
            self._local.tier(request.medium).allocator.require_active(addresses)
            self._hold(caller, addresses)
        return Allocated(addresses.owner.incarnation, messages.pack(addresses.blocks))

    def _free(self, caller: Caller, request: FreeMem) -> Done:
        with self._local.lock:
            addresses = self._held_for(caller, request.medium, request.incarnation, request.blocks)
            self._local.free_mem(addresses)
            self._let_go(addresses)
        return Done()

    def _admit(self, call: Call, offer: Offer) -> Admitted:
        if offer.fetch is not None:
            return self._admit_part(call, offer, offer.fetch)
        self._require_served(call.caller, offer)
        if self._is_for_engine(offer):
            staging = self._local.tier(Medium.DRAM)
            self._require_room(call.caller, Medium.DRAM, offer.count)
            addresses = self._local.alloc_mem(offer.count, Medium.DRAM)
            ticket, key = self._expect(call, offer, staging, addresses, None)
            return Admitted(staging.owner.incarnation, b"", ticket, 0, engine_owned=True, key=key)
        tier = self._local.tier(offer.medium)
        head, present = self._head(call, offer)
        try:
            addresses = self._destination(call.caller, offer, present)
            ticket, key = self._expect(call, offer, tier, addresses, head)
        except MemPoolError:
            if head is not None:
                head.release()
            raise
        return Admitted(tier.owner.incarnation, messages.pack(addresses.blocks), ticket, present, key=key)

    def _admit_part(self, call: Call, offer: Offer, cookie: bytes) -> Admitted:
        self._fetching.require_part(call.caller, offer)
        try:
            self._require_served(call.caller, offer)
            tier = self._local.tier(Medium.DRAM)
            self._require_room(call.caller, Medium.DRAM, offer.count)
            addresses = self._local.alloc_mem(offer.count, Medium.DRAM)
        except MemPoolError as error:
            # The fetch need not wait for its deadline to hear of it.
            self._fetching.part_lost(cookie, error)
            raise
        ticket, key = self._expect(call, offer, tier, addresses, None)
        return Admitted(tier.owner.incarnation, messages.pack(addresses.blocks), ticket, 0, key=key)

    def _is_unwanted_part(self, offer: Offer) -> bool:
        return offer.fetch is not None and not self._fetching.expects(offer.fetch)

    def _require_served(self, caller: Caller, offer: Offer) -> None:
        """Raises LayoutMismatch, Refused."""
        self._local.layout.require_same(offer.layout)
        if offer.digest != self._namespace:
            raise Refused(caller.instance, "the digests of its model and KV are not those of this instance")
        if self._engine is not None and offer.tokens is not None and not self._engine.serves(offer.namespace):
            raise Refused(caller.instance, f"nothing is served here under the namespace {offer.namespace!r}")
        with self._local.lock:
            self._ledger.require_transfer(caller.instance)

    def _require_room(self, caller: Caller, medium: Medium, blocks: int) -> None:
        """Raises OutOfBlocks where there is no such medium, or the caller has enough of it."""
        with self._local.lock:
            self._ledger.require_blocks(caller.instance, self._local.tier(medium).owner, blocks)

    def _is_for_engine(self, offer: Offer) -> bool:
        return self._engine is not None and offer.medium is Medium.HBM and offer.blocks is None

    def _expect(
        self, call: Call, offer: Offer, tier: Tier, addresses: Addresses, head: MatchResult | None
    ) -> tuple[int, bytes | None]:
        """The ticket of a transfer into these blocks, and its key."""
        with self._local.lock:
            tier.allocator.pin(addresses)
        key = self._receiver.new_key()
        ticket = self._receiver.expect(
            tier.store,
            pages_of(addresses),
            lambda private: self._landed(ticket, private),
            lambda error: self._failed(ticket, error),
            key=key,
        )
        deadline = time.monotonic() + call.timeout_s
        with self._local.lock:
            self._incoming[ticket] = _Incoming(call.caller, offer, tier, addresses, head, deadline)
            self._ledger.begin_transfer(call.caller.instance)
            self._ledger.add_blocks(call.caller.instance, tier.medium, len(addresses))
        return ticket, key

    def _take_incoming(self, ticket: int) -> _Incoming | None:
        """The transfer, which has ended."""
        incoming = self._incoming.pop(ticket, None)
        if incoming is not None:
            caller = incoming.caller.instance
            self._ledger.end_transfer(caller)
            self._ledger.add_blocks(caller, incoming.tier.medium, -len(incoming.addresses))
        return incoming

    def _head(self, call: Call, offer: Offer) -> tuple[MatchResult | None, int]:
        """What is published already of the tokens, and how many of the offered blocks that covers."""
        if offer.tokens is None:
            return None, 0
        tokens = messages.unpack(offer.tokens)
        before = len(tokens) // self._local.layout.page_size - offer.count
        head = self._local.match(tokens, offer.namespace, lease_s=call.timeout_s)
        if before < 0 or head.blocks < before:
            head.release()
            raise ValueError(
                f"{-before} blocks more than whole blocks of tokens"
                if before < 0
                else f"the {before - head.blocks} blocks before those offered are not here"
            )
        return head, 0 if offer.blocks is not None else head.blocks - before

    def _destination(self, caller: Caller, offer: Offer, present: int) -> Addresses:
        if offer.blocks is None:
            pinned = 0 if offer.tokens is None else len(offer.tokens) // 4 // self._local.layout.page_size
            self._require_room(caller, offer.medium, pinned if offer.pin_s else offer.count - present)
            return self._local.alloc_mem(offer.count - present, offer.medium)
        with self._local.lock:
            named = self._held_for(caller, offer.medium, offer.incarnation or 0, offer.blocks)
            if len(named) != offer.count:
                raise BadAddress(named.owner, f"{len(named)} blocks named for {offer.count} offered")
            # Until it has ended they are the transfer's: not to be freed, nor named for another.
            self._let_go(named)
        return named

    def _held_for(self, caller: Caller, medium: Medium, incarnation: int, packed: bytes) -> Addresses:
        tier = self._local.tier(medium)
        addresses = Addresses(tier.owner._replace(incarnation=incarnation), messages.unpack(packed))
        tier.allocator.require_active(addresses)
        if not self._held.are_held(caller, medium, addresses.blocks.tolist()):
            lease = f"{self._ledger.quota.lease_s:g} s without use end that"
            raise BadAddress(
                tier.owner, f"these blocks are not held for {caller.instance}, or no more: {lease}"
            )
        return addresses

    def _landed(self, ticket: int, private: bytes) -> None:
        """On the receiver's thread. An error goes to the sender."""
        with self._local.lock:
            incoming = self._take_incoming(ticket)
            if incoming is None:
                raise Refused("the sender", "the transfer was given up")
            incoming.tier.allocator.unpin(incoming.addresses)
            try:
                self._settle(incoming)
            except (MemPoolError, ValueError):
                self._give_back(incoming)
                raise
            finally:
                if incoming.head is not None:
                    incoming.head.release()
        self._hand_over(incoming, private)

    def _hand_over(self, incoming: _Incoming, private: bytes) -> None:
        if incoming.offer.fetch is not None:
            self._fetching.part_landed(incoming.offer.fetch, incoming.addresses)
            return
        received = self._received(incoming, private)
        if received.published and self._fetching.received(received):
            return
        if self._engine is not None and self._is_for_engine(incoming.offer):
            self._engine.on_received(received)
        elif self._on_received is not None:
            self._on_received(received)

    def _received(self, incoming: _Incoming, private: bytes) -> ReceivedBlocks:
        offer = incoming.offer
        tokens = None if offer.tokens is None else messages.unpack(offer.tokens)
        published = tokens is not None and not self._is_for_engine(offer)
        return ReceivedBlocks(
            incoming.caller.instance, private, incoming.addresses, published, tokens, offer.namespace
        )

    def _settle(self, incoming: _Incoming) -> None:
        offer, addresses = incoming.offer, incoming.addresses
        if self._is_for_engine(offer) or offer.fetch is not None:
            return
        if offer.tokens is not None:
            tokens = messages.unpack(offer.tokens)
            self._local.free_mem(self._local.insert(tokens, addresses, offer.namespace))
            if offer.pin_s:
                pinned = self._local.match(tokens, offer.namespace, lease_s=offer.pin_s)
                self._pins.add(incoming.caller, offer.medium, pinned, offer.pin_s)
        elif self._on_received is None:
            self._hold(incoming.caller, addresses)

    def _failed(self, ticket: int, error: TransferError) -> None:
        with self._local.lock:
            incoming = self._take_incoming(ticket)
            if incoming is None:
                return
            incoming.tier.allocator.unpin(incoming.addresses)
            self._give_back(incoming)
            if incoming.head is not None:
                incoming.head.release()
        if incoming.offer.fetch is not None:
            self._fetching.part_lost(incoming.offer.fetch, error)

    def _give_back(self, incoming: _Incoming) -> None:
        if incoming.offer.blocks is None:
            self._local.free_mem(incoming.addresses)
        else:
            self._hold(incoming.caller, incoming.addresses)

    def _withdraw(self, tickets: list[int]) -> None:
        """Not under the pool's lock: the receiver's thread takes that while it holds its own."""
        for ticket in tickets:
            self._receiver.withdraw(ticket)
            self._failed(ticket, Refused(self._local.instance, "the transfer was given up"))

    def _hold(self, caller: Caller, addresses: Addresses) -> None:
        with self._local.lock:
            self._held.add(caller, addresses.medium, addresses.blocks.tolist())

    def _let_go(self, addresses: Addresses) -> None:
        self._held.remove(addresses.medium, addresses.blocks.tolist())

    def _free_held(self, taken: list[tuple[Medium, list[int]]]) -> None:
        for medium, blocks in taken:
            self._local.free_mem(Addresses(self._local.tier(medium).owner, blocks))
