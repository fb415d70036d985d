"""Transfers from this instance to others: asked for on the control channel, moved on the block channel."""

import time
from concurrent.futures import Future

from mempool.address import Addresses, BlockNumbers, Owner
from mempool.errors import DeadlinePassed, MemPoolError, PeerDied, TransferError
from mempool.flags import TransferFlags
from mempool.local import LocalPool
from mempool.membership.messages import InstanceInfo
from mempool.remote import messages
from mempool.remote.messages import Admitted, ControlReply, Offer
from mempool.remote.requests import RequestQueue, settle
from mempool.results import TransferResult
from mempool.tiers.joined import JoinedStores
from mempool.transfer.outgoing import OutgoingTransfer
from mempool.transfer.sender import BlockSender


class _Outgoing:
    """Ends once: with `TransferResult`, or with the first error."""

    def __init__(
        self,
        peer: InstanceInfo,
        source: list[Addresses],
        target: Addresses | None,
        flags: TransferFlags,
        private: bytes,
    ) -> None:
        self.peer = peer
        self.source = source
        self.flags = flags
        self.private = private
        self.medium = flags.medium if target is None else target.medium
        self.result: Future[TransferResult] = Future()
        self.landing: TransferResult | None = None
        self.transfer: OutgoingTransfer | None = None


class Sending:
    """Runs the transfers of this instance. Its methods may be called from any thread.

    `namespace`: the digest of what this instance's blocks mean.
    """

    def __init__(
        self, local: LocalPool, requests: RequestQueue, sender: BlockSender, namespace: bytes = b""
    ) -> None:
        self._local = local
        self._namespace = namespace
        self._requests = requests
        self._sender = sender
        # One for all: the block channel keeps staging memory for each store that it sends from.
        self._store = JoinedStores(list(local.tiers.values()))
        self._running: dict[_Outgoing, float] = {}
        self._closed_by: TransferError | None = None

    @property
    def outgoing(self) -> int:
        """Transfers that have not ended."""
        return len(self._running)

    def transfer(
        self,
        peer: InstanceInfo,
        source: list[Addresses],
        target: Addresses | None,
        flags: TransferFlags,
        private: bytes,
        tokens: BlockNumbers | None,
        namespace: str,
        timeout_s: float,
        *,
        fetch: bytes | None = None,
    ) -> Future[TransferResult]:
        """As `MemPool.transfer`. Raises BadAddress, StaleAddress for blocks that are not this instance's,
        and ValueError for what no message carries. `fetch`: as in `Offer`.
        """
        messages.require_pin(flags.pin_s, tokens is not None)
        outgoing = _Outgoing(peer, source, target, flags, private)
        offer = Offer(
            layout=self._local.layout,
            medium=outgoing.medium,
            count=sum(map(len, source)),
            incarnation=None if target is None else target.owner.incarnation,
            blocks=None if target is None else messages.pack(target.blocks),
            namespace=namespace,
            pin_s=flags.pin_s,
            tokens=None if tokens is None else messages.pack(tokens),
            digest=self._namespace,
            fetch=fetch,
        )
        messages.require_fit(offer, private)
        with self._local.lock:
            self._local.pin(source)
        self._running[outgoing] = time.monotonic() + timeout_s
        if self._closed_by is not None:
            self._give_up(outgoing, self._closed_by)
            return outgoing.result
        asked = self._requests.send(peer.control, offer, timeout_s)
        asked.add_done_callback(lambda reply: self._answered(outgoing, reply))
        return outgoing.result

    def expire(self) -> None:
        now = time.monotonic()
        for outgoing, deadline in list(self._running.items()):
            if deadline < now:
                self._give_up(outgoing, DeadlinePassed(outgoing.peer.instance, "not landed in time"))

    def release(self, instance: str, keep_incarnation: int | None = None) -> None:
        """Ends what goes to an instance that is dead."""
        for outgoing in list(self._running):
            peer = outgoing.peer
            if peer.instance == instance and peer.incarnation != keep_incarnation:
                self._give_up(outgoing, PeerDied(instance, "declared dead"))

    def close(self, error: TransferError) -> None:
        """As `abort`, and ends what another thread begins from now on."""
        self._closed_by = error
        self.abort(error)

    def abort(self, error: TransferError) -> None:
        """Ends every transfer that runs now."""
        for outgoing in list(self._running):
            self._give_up(outgoing, error)

    def _answered(self, outgoing: _Outgoing, reply: Future[ControlReply]) -> None:
        """On the control thread."""
        try:
            self._begin(outgoing, messages.expect(reply.result(), Admitted, outgoing.peer.instance))
        except MemPoolError as error:
            self._end(outgoing, error)

    def _begin(self, outgoing: _Outgoing, admitted: Admitted) -> None:
        peer, count = outgoing.peer, sum(map(len, outgoing.source))
        blocks = messages.unpack(admitted.blocks)
        if not admitted.engine_owned and admitted.present + len(blocks) != count:
            raise TransferError(
                peer.instance, f"{admitted.present} and {len(blocks)} blocks admitted of {count} offered"
            )
        owner = Owner(peer.instance, admitted.incarnation, outgoing.medium)
        outgoing.landing = TransferResult(Addresses(owner, blocks), admitted.present, outgoing.private)
        transfer = outgoing.transfer = self._sender.open(
            self._store,
            peer.data,
            admitted.ticket,
            lambda error: self._end(outgoing, error),
            mode=outgoing.flags.mode,
            key=admitted.key,
            fabrics=peer.fabrics,
        )
        if outgoing not in self._running:
            transfer.fail("the sender gave the transfer up")
            return
        pages = self._store.pages(outgoing.source)[admitted.present :]
        if len(pages):
            transfer.send(pages, 0)
        transfer.finish(len(pages), outgoing.private)

    def _give_up(self, outgoing: _Outgoing, error: TransferError) -> None:
        # Off the list first: `_begin`, on the control thread, sees that, or its transfer is seen here.
        if self._running.pop(outgoing, None) is not None:
            if outgoing.transfer is not None:
                outgoing.transfer.fail(error.cause)
            self._ended(outgoing, error)

    def _end(self, outgoing: _Outgoing, error: MemPoolError | None) -> None:
        if self._running.pop(outgoing, None) is not None:
            self._ended(outgoing, error)

    def _ended(self, outgoing: _Outgoing, error: MemPoolError | None) -> None:
        with self._local.lock:
            self._local.unpin(outgoing.source)
            if error is None and outgoing.flags.move:
                try:
                    self._local.give_up(outgoing.source)
                except MemPoolError as stale:
                    error = stale
        outcome = error or outgoing.landing
        assert outcome is not None
        settle(outgoing.result, outcome)
