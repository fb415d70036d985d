"""KV that another instance has published, asked for and sent: match there, `transfer_with_insert` to here."""

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
from mempool.local import LocalPool
from mempool.matched import Matched
from mempool.peers import Peers
from mempool.remote import messages
from mempool.remote.messages import Call, Comes, Done, Fetch, FetchEnds, Reply
from mempool.remote.requests import RequestQueue, settle
from mempool.remote.sending import Flags, Landed, Sending


class _Asked(NamedTuple):
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
        peers: Peers,
        requests: RequestQueue,
        sending: Sending,
        on_publish_request: Callable[[PublishRequest], None] | None = None,
    ) -> None:
        self._on_publish_request = on_publish_request
        self._local = local
        self._peers = peers
        self._requests = requests
        self._sending = sending
        self._lock = threading.Lock()
        self._asked: dict[bytes, _Asked] = {}
        self._closed_by: TransferError | None = None

    @property
    def asked(self) -> int:
        """Fetches that have not ended."""
        return len(self._asked)

    def fetch(
        self, instance: str, tokens: BlockNumbers, namespace: str, seconds: float, from_engine: bool = False
    ) -> Future[int]:
        """As `MemPool.fetch`. Raises PeerDied, ValueError."""
        cookie = secrets.token_bytes(16)
        request = Fetch(messages.pack(tokens), namespace, cookie, from_engine)
        messages.require_fit(request)
        peer = self._peers.get(instance)
        result: Future[int] = Future()
        with self._lock:
            self._asked[cookie] = _Asked(instance, peer.incarnation, time.monotonic() + seconds, result)
        if self._closed_by is not None:
            self._end(cookie, self._closed_by)
            return result
        asked = self._requests.ask(peer.control, request, seconds)
        asked.add_done_callback(lambda reply: self._answered(instance, cookie, reply))
        return result

    def received(self, received: ReceivedBlocks) -> bool:
        """Whether it is what was asked for here. On the receiver's thread."""
        if received.tokens is None:
            return False
        return self._end(received.private, len(received.tokens) // self._local.layout.page_size)

    def answer(self, call: Call, ask: Fetch | FetchEnds) -> Comes | Done:
        """On the control thread. Raises MemPoolError, ValueError."""
        if isinstance(ask, Fetch):
            return self._serve(call, ask)
        asked = self._asked.get(ask.cookie)
        if asked is not None and asked.instance == call.caller.instance:
            self._end(ask.cookie, 0)
        return Done()

    def _serve(self, call: Call, fetch: Fetch) -> Comes:
        """Sends what is published here to the caller, at once or when the engine has published more."""
        tokens = messages.unpack(fetch.tokens)
        if self._on_publish_request is not None and fetch.from_engine:
            found = self._local.match(tokens, fetch.namespace, lease_seconds=None)
            page = self._local.layout.page_size
            if found.tokens < len(tokens) // page * page:
                until = time.monotonic() + call.seconds
                done = partial(self._serve_later, call, fetch, tokens, until)
                self._on_publish_request(PublishRequest(tokens, fetch.namespace, found.tokens, done))
                return Comes(found.blocks, later=True)
        return Comes(self._send(call, fetch, tokens, call.seconds))

    def _serve_later(self, call: Call, fetch: Fetch, tokens: BlockNumbers, until: float) -> None:
        seconds = until - time.monotonic()
        if seconds <= 0:
            return
        try:
            blocks = self._send(call, fetch, tokens, seconds)
        except (MemPoolError, ValueError):
            blocks = 0
        if not blocks:
            try:
                peer = self._peers.get(call.caller.instance)
            except PeerDied:
                return
            self._requests.ask(peer.control, FetchEnds(fetch.cookie), seconds)

    def _send(self, call: Call, fetch: Fetch, tokens: BlockNumbers, seconds: float) -> int:
        """How many blocks it begins to send."""
        peer = self._peers.get(call.caller.instance)
        if peer.incarnation != call.caller.incarnation:
            raise Refused(call.caller.instance, "known here under another incarnation")
        found = self._local.match(tokens, fetch.namespace, lease_seconds=seconds)
        source = self._of_this_instance(found)
        blocks = sum(map(len, source))
        if not blocks:
            found.release()
            return 0
        whole = tokens[: blocks * self._local.layout.page_size]
        try:
            sent = self._sending.transfer(
                peer, source, None, Flags(), fetch.cookie, whole, fetch.namespace, seconds
            )
        except (MemPoolError, ValueError):
            found.release()
            raise
        sent.add_done_callback(lambda landed: self._sent(found, landed))
        return blocks

    def expire(self) -> None:
        now = time.monotonic()
        for cookie, asked in list(self._asked.items()):
            if asked.deadline < now:
                self._end(cookie, DeadlinePassed(asked.instance, "not here in time"))

    def release(self, instance: str, keep_incarnation: int | None = None) -> None:
        """Ends what was asked of an instance that is dead."""
        for cookie, asked in list(self._asked.items()):
            if asked.instance == instance and asked.incarnation != keep_incarnation:
                self._end(cookie, PeerDied(instance, "declared dead"))

    def close(self, error: TransferError) -> None:
        """Ends every fetch, also one that another thread begins from now on."""
        self._closed_by = error
        for cookie in list(self._asked):
            self._end(cookie, error)

    def _answered(self, instance: str, cookie: bytes, reply: Future[Reply]) -> None:
        try:
            comes = messages.expect(reply.result(), Comes, instance)
        except MemPoolError as error:
            self._end(cookie, error)
        else:
            if not comes.blocks and not comes.later:
                self._end(cookie, 0)

    def _end(self, cookie: bytes, outcome: int | MemPoolError) -> bool:
        with self._lock:
            asked = self._asked.pop(cookie, None)
        if asked is None:
            return False
        settle(asked.result, outcome)
        return True

    def _of_this_instance(self, found: Matched) -> list[Addresses]:
        """The blocks up to the first that only another instance has."""
        source: list[Addresses] = []
        for part in found.addresses:
            if part.owner.instance != self._local.instance:
                break
            source.append(part)
        return source

    def _sent(self, found: Matched, landed: Future[Landed]) -> None:
        # The caller hears of a failure by its deadline, or by this instance's death.
        landed.exception()
        found.release()
