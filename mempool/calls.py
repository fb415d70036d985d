"""The nine calls as futures."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mempool.address import Addresses, Medium, Owner
from mempool.errors import MemPoolError
from mempool.flags import TransferFlags
from mempool.index.keys import Tokens, token_array
from mempool.local import LocalPool
from mempool.membership.messages import InstanceInfo
from mempool.peers import PeerDirectory
from mempool.remote import messages
from mempool.remote.fetching import Fetching
from mempool.remote.messages import Allocated, AllocMem, ControlReply, Done, FreeMem
from mempool.remote.requests import RequestQueue, settle
from mempool.remote.sending import Sending
from mempool.results import MatchResult, TransferResult
from mempool.sources import FetchSource

T = TypeVar("T")


class FutureCalls:
    """The calls of `MemPool` as futures, with the same arguments.

    Requests and transfers are under way when a call returns. The future holds the result, or the error that
    the blocking call raises.
    """

    def __init__(
        self,
        local: LocalPool,
        peers: PeerDirectory,
        requests: RequestQueue,
        sending: Sending,
        fetching: Fetching,
    ) -> None:
        self._fetching = fetching
        self._local = local
        self._peers = peers
        self._requests = requests
        self._sending = sending
        # Calls that need no other instance run here, one after the other.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mempool-calls")

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    def alloc_mem(
        self, size: int, medium: Medium = Medium.HBM, instance: str | None = None, *, timeout_s: float = 5.0
    ) -> Future[Addresses]:
        if instance in (None, self._local.instance):
            return self._worker.submit(self._local.alloc_mem, size, medium)

        def taken(peer: InstanceInfo, reply: ControlReply) -> Addresses:
            allocated = messages.expect(reply, Allocated, peer.instance)
            owner = Owner(peer.instance, allocated.incarnation, medium)
            return Addresses(owner, messages.unpack(allocated.blocks))

        return self._request(lambda: self._peers.get(instance), AllocMem(medium, size), timeout_s, taken)

    def free_mem(self, addresses: Addresses, *, timeout_s: float = 5.0) -> Future[None]:
        if addresses.owner.instance == self._local.instance:
            return self._worker.submit(self._local.free_mem, addresses)
        request = FreeMem(addresses.medium, addresses.owner.incarnation, messages.pack(addresses.blocks))

        def taken(peer: InstanceInfo, reply: ControlReply) -> None:
            messages.expect(reply, Done, peer.instance)

        return self._request(lambda: self._peers.owner_of(addresses), request, timeout_s, taken)

    def insert(
        self, tokens: Tokens, addresses: Addresses | Sequence[Addresses], *, namespace: str = ""
    ) -> Future[list[Addresses]]:
        return self._worker.submit(self._local.insert, tokens, addresses, namespace=namespace)

    def match(
        self, tokens: Tokens, *, namespace: str = "", lease_s: float | None = 30.0
    ) -> Future[MatchResult]:
        return self._worker.submit(self._local.match, tokens, namespace=namespace, lease_s=lease_s)

    def delete(self, tokens: Tokens, *, namespace: str = "") -> Future[int]:
        return self._worker.submit(self._local.delete, tokens, namespace=namespace)

    def swap_out(self, num_blocks: int) -> Future[int]:
        return self._worker.submit(self._local.swap_out, num_blocks)

    def swap_in(self, addresses: Addresses) -> Future[Addresses]:
        return self._worker.submit(self._local.swap_in, addresses)

    def transfer(
        self,
        instance: str,
        source: Addresses | Sequence[Addresses],
        target: Addresses | None = None,
        flags: TransferFlags | None = None,
        private: bytes = b"",
        *,
        timeout_s: float = 30.0,
    ) -> Future[TransferResult]:
        return self._transfer(instance, source, target, flags, private, None, "", timeout_s)

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
    ) -> Future[TransferResult]:
        return self._transfer(instance, source, target, flags, private, tokens, namespace, timeout_s)

    def fetch(
        self,
        source: str | Sequence[FetchSource],
        tokens: Tokens,
        *,
        namespace: str = "",
        timeout_s: float = 30.0,
        from_engine: bool = False,
    ) -> Future[int]:
        try:
            wanted = token_array(tokens)
            if isinstance(source, str):
                return self._fetching.fetch(source, wanted, namespace, timeout_s, from_engine)
            return self._fetching.fetch_parts(source, wanted, namespace, timeout_s, from_engine)
        except (MemPoolError, ValueError) as error:
            return _failed(error)

    def _transfer(
        self,
        instance: str,
        source: Addresses | Sequence[Addresses],
        target: Addresses | None,
        flags: TransferFlags | None,
        private: bytes,
        tokens: Tokens | None,
        namespace: str,
        timeout_s: float,
    ) -> Future[TransferResult]:
        try:
            peer = self._peers.get(instance) if target is None else self._peers.owner_of(target)
            parts = [source] if isinstance(source, Addresses) else list(source)
            packed = None if tokens is None else token_array(tokens)
            return self._sending.transfer(
                peer, parts, target, flags or TransferFlags(), private, packed, namespace, timeout_s
            )
        except (MemPoolError, ValueError) as error:
            return _failed(error)

    def _request(
        self,
        find: Callable[[], InstanceInfo],
        request: messages.ControlRequest,
        timeout_s: float,
        take: Callable[[InstanceInfo, ControlReply], T],
    ) -> Future[T]:
        try:
            messages.require_fit(request)
            peer = find()
        except (MemPoolError, ValueError) as error:
            return _failed(error)
        result: Future[T] = Future()

        def answered(reply: Future[ControlReply]) -> None:
            try:
                settle(result, take(peer, reply.result()))
            except MemPoolError as error:
                settle(result, error)

        self._requests.send(peer.control, request, timeout_s).add_done_callback(answered)
        return result


def _failed(error: Exception) -> Future[T]:
    result: Future[T] = Future()
    result.set_exception(error)
    return result
