"""Fetches of KV that another instance has published: match there, `transfer_with_insert` to here."""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from mempool.address import Addresses, BlockNumbers
from mempool.engine import PublishRequest, ReceivedBlocks
from mempool.errors import DeadlinePassed, MemPoolError, PeerDied, Refused, TransferError
from mempool.flags import TransferFlags
from mempool.local import LocalPool
from mempool.peers import PeerDirectory
from mempool.remote import messages
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import Call, ControlReply, Done, FetchEnded, FetchReply, FetchRequest
from mempool.remote.requests import RequestQueue, settle
from mempool.remote.sending import Sending
from mempool.results import MatchResult, TransferResult


class _PendingFetch(NamedTuple):
    instance: str
    incarnation: int
    deadline: float
    result: Future[int]


class Fetching:
    """Asks other instances for KV, and answers those that ask this one.

    `fetch` may be called from any thread. `on_publish_request` is called on the control thread.
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
        self._lock = threading.Lock()
        self._pending: dict[bytes, _PendingFetch] = {}
        self._closed_by: TransferError | None = None

    @property
    def pending(self) -> int:
        """Fetches that have not ended."""
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
        with self._lock:
            self._pending[cookie] = _PendingFetch(
                instance, peer.incarnation, time.monotonic() + timeout_s, result
            )
        if self._closed_by is not None:
            self._end(cookie, self._closed_by)
            return result
        reply = self._requests.send(peer.control, request, timeout_s)
        reply.add_done_callback(lambda reply: self._answered(instance, cookie, reply))
        return result

    def received(self, received: ReceivedBlocks) -> bool:
        """Whether these blocks end a fetch of this instance. On the receiver's thread."""
        if received.tokens is None:
            return False
        return self._end(received.private, len(received.tokens) // self._local.layout.page_size)

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
        source = self._of_this_instance(found)
        blocks = sum(map(len, source))
        if not blocks:
            found.release()
            return 0
        whole = tokens[: blocks * self._local.layout.page_size]
        try:
            sent = self._sending.transfer(
                peer, source, None, TransferFlags(), fetch.cookie, whole, fetch.namespace, timeout_s
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
        settle(pending.result, outcome)
        return True

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
