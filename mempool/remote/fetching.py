"""Fetches of KV that other instances have published: match there, a transfer to here, published here."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from mempool.address import Addresses, BlockNumbers, Medium, after
from mempool.engine import PublishRequest, ReceivedBlocks
from mempool.errors import DeadlinePassed, MemPoolError, PeerDied, Refused, TransferError
from mempool.flags import TransferFlags
from mempool.local import LocalPool
from mempool.membership.messages import InstanceInfo
from mempool.peers import PeerDirectory
from mempool.remote import messages
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import (
    Call,
    Caller,
    ControlReply,
    Done,
    FetchEnded,
    FetchReply,
    FetchRequest,
    Offer,
)
from mempool.remote.parted_fetch import PartedFetch
from mempool.remote.requests import RequestQueue, settle
from mempool.remote.sending import Sending
from mempool.results import MatchResult, TransferResult
from mempool.sources import FetchSource, parts_of, require_sources


class _PendingFetch(NamedTuple):
    """Ends `result`, unless it is the part of the `whole`."""

    instance: str
    incarnation: int
    deadline: float
    result: Future[int]
    whole: PartedFetch | None = None
    blocks: int = 0


class Fetching:
    """Asks other instances for KV, and answers those that ask this one.

    `fetch` and `fetch_parts` may be called from any thread. `on_publish_request` is called on the control
    thread. `lost_parts` counts those that failed.
    """

    def __init__(
        self,
        local: LocalPool,
        peers: PeerDirectory,
        requests: RequestQueue,
        sending: Sending,
        ledger: PeerLedger,
        on_publish_request: Callable[[PublishRequest], None] | None = None,
    ) -> None:
        self._on_publish_request = on_publish_request
        self._local = local
        self._peers = peers
        self._requests = requests
        self._sending = sending
        self._ledger = ledger
        self.lost_parts = 0
        self._lock = threading.Lock()
        self._pending: dict[bytes, _PendingFetch] = {}
        self._closed_by: TransferError | None = None

    @property
    def pending(self) -> int:
        """Fetches, and parts of fetches, that have not ended."""
        return len(self._pending)

    def fetch(
        self, instance: str, tokens: BlockNumbers, namespace: str, timeout_s: float, from_engine: bool = False
    ) -> Future[int]:
        """As `MemPool.fetch`. Raises PeerDied, ValueError."""
        cookie = secrets.token_bytes(16)
        request = FetchRequest(messages.pack(tokens), namespace, cookie, from_engine)
        messages.require_fit(request)
        peer = self._peers.get(instance)
        result: Future[int] = Future()
        deadline = time.monotonic() + timeout_s
        self._await(cookie, _PendingFetch(instance, peer.incarnation, deadline, result))
        self._ask(peer, request, timeout_s)
        return result

    def fetch_parts(
        self,
        sources: Sequence[FetchSource],
        tokens: BlockNumbers,
        namespace: str,
        timeout_s: float,
        from_engine: bool = False,
    ) -> Future[int]:
        """As `MemPool.fetch` from several sources. Raises PeerDied, ValueError."""
        require_sources(sources)
        cookie, deadline = secrets.token_bytes(16), time.monotonic() + timeout_s
        # No part has more tokens than this.
        messages.require_fit(FetchRequest(messages.pack(tokens), namespace, cookie, from_engine, 0))
        peers = self._alive(sources)
        alive = [source for source in sources if source.instance in peers]
        page = self._local.layout.page_size
        head = self._local.match(tokens, namespace, lease_s=timeout_s)
        cut = parts_of(alive, head.blocks, len(tokens) // page)
        parts = {secrets.token_bytes(16): part for part in cut}
        whole = PartedFetch(self._local, tokens, namespace, parts, head, deadline)
        for cookie, part in parts.items():
            incarnation, blocks = peers[part.instance].incarnation, part.stop - part.first
            self._await(
                cookie, _PendingFetch(part.instance, incarnation, deadline, whole.result, whole, blocks)
            )
        for cookie, part in parts.items():
            wanted = messages.pack(tokens[: part.stop * page])
            request = FetchRequest(wanted, namespace, cookie, from_engine, part.first)
            self._ask(peers[part.instance], request, timeout_s)
        return whole.result

    def _alive(self, sources: Sequence[FetchSource]) -> dict[str, InstanceInfo]:
        """Those of the sources that are there, by name. Raises PeerDied where none is."""
        peers: dict[str, InstanceInfo] = {}
        died: PeerDied | None = None
        for source in sources:
            try:
                peers[source.instance] = self._peers.get(source.instance)
            except PeerDied as error:
                died = died or error
        if died is not None and not peers:
            raise died
        return peers

    def _await(self, cookie: bytes, pending: _PendingFetch) -> None:
        with self._lock:
            self._pending[cookie] = pending
        if self._closed_by is not None:
            self._end(cookie, self._closed_by)

    def _ask(self, peer: InstanceInfo, request: FetchRequest, timeout_s: float) -> None:
        if request.cookie in self._pending:
            reply = self._requests.send(peer.control, request, timeout_s)
            reply.add_done_callback(lambda reply: self._answered(peer.instance, request.cookie, reply))

    def received(self, received: ReceivedBlocks) -> bool:
        """Whether these blocks end a fetch of this instance. On the receiver's thread."""
        if received.tokens is None:
            return False
        return self._end(received.private, len(received.tokens) // self._local.layout.page_size)

    def expects(self, cookie: bytes) -> bool:
        """Whether the part of that cookie is still of use."""
        return cookie in self._pending

    def require_part(self, caller: Caller, offer: Offer) -> None:
        """Raises Refused for the offer of a part that nobody here waits for."""
        pending = self._pending.get(offer.fetch or b"")
        if pending is None or Caller(pending.instance, pending.incarnation) != caller:
            raise Refused(caller.instance, "no fetch of this instance has that part, or has it any more")
        if (
            not 0 < offer.count <= pending.blocks
            or offer.medium is not Medium.DRAM
            or offer.blocks is not None
        ):
            raise Refused(
                caller.instance, f"{offer.count} blocks for a part of {pending.blocks}, which goes to DRAM"
            )

    def part_landed(self, cookie: bytes, addresses: Addresses) -> None:
        """The blocks of a part, active. They are the fetch's from now on. On the receiver's thread."""
        with self._lock:
            pending = self._pending.pop(cookie, None)
        if pending is None or pending.whole is None:
            self._local.give_back(addresses)
            return
        pending.whole.landed(cookie, addresses)
        self._forget_unwanted(pending.whole)

    def part_lost(self, cookie: bytes, error: MemPoolError) -> None:
        """Its transfer has failed. Not under the pool's lock: callbacks of the fetch may run."""
        self._end(cookie, error)

    def answer(self, call: Call, request: FetchRequest | FetchEnded) -> FetchReply | Done:
        """On the control thread. Raises MemPoolError, ValueError."""
        if isinstance(request, FetchRequest):
            return self._serve(call, request)
        pending = self._pending.get(request.cookie)
        if pending is not None and pending.instance == call.caller.instance:
            self._end(request.cookie, 0)
        return Done()

    def _serve(self, call: Call, fetch: FetchRequest) -> FetchReply:
        """Sends what is published here to the caller, at once or when the engine has published more."""
        tokens = messages.unpack(fetch.tokens)
        if self._on_publish_request is not None and fetch.from_engine:
            found = self._local.match(tokens, fetch.namespace, lease_s=None)
            page = self._local.layout.page_size
            if found.tokens < len(tokens) // page * page:
                until = time.monotonic() + call.timeout_s
                done = partial(self._serve_later, call, fetch, tokens, until)
                self._on_publish_request(PublishRequest(tokens, fetch.namespace, found.tokens, done))
                return FetchReply(found.blocks, later=True)
        return FetchReply(self._send(call, fetch, tokens, call.timeout_s))

    def _serve_later(self, call: Call, fetch: FetchRequest, tokens: BlockNumbers, until: float) -> None:
        timeout_s = until - time.monotonic()
        if timeout_s <= 0:
            return
        try:
            blocks = self._send(call, fetch, tokens, timeout_s)
        except (MemPoolError, ValueError):
            blocks = 0
        if not blocks:
            try:
                peer = self._peers.get(call.caller.instance)
            except PeerDied:
                return
            self._requests.send(peer.control, FetchEnded(fetch.cookie), timeout_s)

    def _send(self, call: Call, fetch: FetchRequest, tokens: BlockNumbers, timeout_s: float) -> int:
        """How many blocks it begins to send."""
        peer = self._peers.get(call.caller.instance)
        if peer.incarnation != call.caller.incarnation:
            raise Refused(call.caller.instance, "known here under another incarnation")
        with self._local.lock:
            self._ledger.require_transfer(peer.instance)
        found = self._local.match(tokens, fetch.namespace, lease_s=timeout_s)
        whole = self._of_this_instance(found)
        source = after(whole, fetch.first or 0)
        blocks = sum(map(len, source))
        if not blocks:
            found.release()
            return 0
        is_part = fetch.first is not None
        published = tokens[: sum(map(len, whole)) * self._local.layout.page_size]
        try:
            sent = self._sending.transfer(
                peer,
                source,
                None,
                TransferFlags(),
                fetch.cookie,
                None if is_part else published,
                fetch.namespace,
                timeout_s,
                fetch=fetch.cookie if is_part else None,
            )
        except (MemPoolError, ValueError):
            found.release()
            raise
        with self._local.lock:
            self._ledger.begin_transfer(peer.instance)
        sent.add_done_callback(lambda landed: self._sent(peer.instance, found, landed))
        return blocks

    def expire(self) -> None:
        now = time.monotonic()
        for cookie, pending in list(self._pending.items()):
            if pending.deadline < now:
                self._end(cookie, DeadlinePassed(pending.instance, "not here in time"))

    def release(self, instance: str, keep_incarnation: int | None = None) -> None:
        """Ends the fetches from an instance that is dead."""
        for cookie, pending in list(self._pending.items()):
            if pending.instance == instance and pending.incarnation != keep_incarnation:
                self._end(cookie, PeerDied(instance, "declared dead"))

    def close(self, error: TransferError) -> None:
        """Ends every fetch, also one that another thread begins from now on."""
        self._closed_by = error
        for cookie in list(self._pending):
            self._end(cookie, error)

    def _answered(self, instance: str, cookie: bytes, reply: Future[ControlReply]) -> None:
        try:
            comes = messages.expect(reply.result(), FetchReply, instance)
        except MemPoolError as error:
            self._end(cookie, error)
        else:
            if not comes.blocks and not comes.later:
                self._end(cookie, 0)

    def _end(self, cookie: bytes, outcome: int | MemPoolError) -> bool:
        with self._lock:
            pending = self._pending.pop(cookie, None)
        if pending is None:
            return False
        if pending.whole is None:
            settle(pending.result, outcome)
            return True
        error = outcome if isinstance(outcome, MemPoolError) else None
        self.lost_parts += error is not None
        pending.whole.lost(cookie, error)
        self._forget_unwanted(pending.whole)
        return True

    def _forget_unwanted(self, whole: PartedFetch) -> None:
        unwanted = whole.unwanted
        with self._lock:
            for cookie in unwanted:
                self._pending.pop(cookie, None)

    def _of_this_instance(self, found: MatchResult) -> list[Addresses]:
        """The blocks up to the first that only another instance has."""
        source: list[Addresses] = []
        for part in found.addresses:
            if part.owner.instance != self._local.instance:
                break
            source.append(part)
        return source

    def _sent(self, instance: str, found: MatchResult, landed: Future[TransferResult]) -> None:
        # The caller hears of a failure by its deadline, or by this instance's death.
        landed.exception()
        found.release()
        with self._local.lock:
            self._ledger.end_transfer(instance)
