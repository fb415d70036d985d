"""The control channel: one thread that sends requests to other instances, and answers theirs."""

import logging
import threading
from collections.abc import Callable

import zmq

from mempool.address import Medium
from mempool.errors import FrameError, MemPoolError, PeerDied, Refused
from mempool.guard import LoopGuard
from mempool.remote import messages
from mempool.remote.control_client import ControlClient
from mempool.remote.messages import Call, Caller, CallReply, ControlReply, Failed
from mempool.remote.requests import OutgoingRequest, RequestQueue, settle
from mempool.sockets import MAX_PEERS, SocketLimits, poll_ms
from mempool.transports.base import Disconnected, IncomingMessage
from mempool.transports.peers import PeerTable
from mempool.transports.registry import Transports
from mempool.wire import short

logger = logging.getLogger(__name__)

# A deadline may be as far away as a caller likes, a poll may not.
_LONGEST_POLL_SECONDS = 3600.0
_AFTER_ERROR_MS = 100
# So that a flood of calls does not keep the thread from this instance's own requests.
_CALLS_A_TURN = 256


class Control:
    """Listens at `url`, and sends what is in `requests`. `endpoint` is where others send theirs.

    `serve(call)` answers them on this thread: it must be quick. Where it raises, the call gets no answer.
    `caller()` is who this instance is now, as it says with each of its own requests. `max_peers`: connections
    to others at once. `impostors` counts calls in another's name than the connection's: they are refused.
    """

    def __init__(
        self,
        url: str,
        caller: Callable[[], Caller],
        serve: Callable[[Call], ControlReply],
        requests: RequestQueue,
        *,
        limits: SocketLimits,
        transports: Transports,
        max_peers: int = MAX_PEERS,
    ) -> None:
        self._caller = caller
        self._serve = serve
        self._requests = requests
        self._limits = limits
        self._transports = transports
        self._listener = transports.listen(url, limits, messages.MAX_BYTES)
        self.endpoint = self._listener.endpoint
        self.bad_frames = 0
        self.impostors = 0
        self._guard = LoopGuard("the control channel")
        self._stopping = False
        self._poller = zmq.Poller()
        self._peers = PeerTable(
            self._poller, max_peers, self._connect, self._drop, in_use="instances have been asked"
        )
        for pollable in (requests.wakeup, *self._listener.pollables):
            self._poller.register(pollable, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="mempool-control", daemon=True)
        self._thread.start()

    @property
    def errors(self) -> int:
        """Unexpected ones."""
        return self._guard.errors

    def close(self) -> None:
        """Closes the queue of requests too. Requests without a reply end with PeerDied."""
        self._stopping = True
        self._requests.wakeup.set()
        self._thread.join()
        self._requests.close()
        self._listener.close()

    def _run(self) -> None:
        timeout: int | None = None
        while not self._stopping:
            self._poller.poll(timeout)
            self._requests.wakeup.clear()
            timeout = _AFTER_ERROR_MS
            with self._guard:
                timeout = self._turn()
        for peer in list(self._peers.values()):
            self._drop(peer, PeerDied(peer.endpoint, "this instance stops"))

    def _turn(self) -> int | None:
        """Returns for how long nothing has to be done (ms)."""
        while (request := self._requests.take()) is not None:
            self._send(request)
        more = self._answer_some()
        return poll_ms(self._listener.tend(), self._serve_peers(), 0 if more else None)

    def _answer_some(self) -> bool:
        """Whether there may be more to answer."""
        for _ in range(_CALLS_A_TURN):
            received = None if self._stopping else self._listener.receive()
            if received is None:
                return False
            with self._guard:
                self._answer(received)
        return True

    def _send(self, request: OutgoingRequest) -> None:
        try:
            self._peers.use(request.endpoint).send(
                self._caller(), request.request, request.deadline, request.reply
            )
        except Exception as error:
            # The endpoint is a peer's own word: there is no list of what connecting to it may raise.
            if not isinstance(error, MemPoolError | OSError):
                self._guard.report(error)
            settle(request.reply, PeerDied(request.endpoint, f"cannot connect: {error}"))

    def _connect(self, endpoint: str) -> ControlClient:
        return ControlClient(self._transports.connect(endpoint, self._limits), endpoint)

    def _drop(self, peer: ControlClient, error: MemPoolError) -> None:
        self._peers.forget(peer)
        peer.close(error)

    def _serve_peers(self) -> float | None:
        """Returns for how long nothing has to be done (seconds)."""
        due: list[float] = []
        for peer in list(self._peers.values()):
            try:
                due += peer.serve()
            except FrameError as error:
                self.bad_frames += 1
                self._drop(peer, PeerDied(peer.endpoint, f"bad frame: {error}"))
            except MemPoolError as error:
                self._drop(peer, error)
            except Exception as error:
                self._guard.report(error)
                self._drop(peer, PeerDied(peer.endpoint, f"cannot be served: {error}"))
        return min([*due, _LONGEST_POLL_SECONDS]) if due else None

    def _answer(self, received: IncomingMessage | Disconnected) -> None:
        if isinstance(received, Disconnected):
            return
        try:
            if len(received.frames) != 1:
                raise FrameError(f"{len(received.frames)} frames where one was expected")
            call = messages.decode_call(received.frames[0])
        except FrameError as error:
            self.bad_frames += 1
            logger.debug("dropped a request: %s", error)
            return
        self._listener.send(received.source, messages.encode(CallReply(call.id, self._reply(received, call))))

    def _reply(self, received: IncomingMessage, call: Call) -> ControlReply:
        if received.speaker.may_be(call.caller.instance):
            return self._serve(call)
        self.impostors += 1
        cause = f"this connection speaks for {received.speaker.name!r}, not for {call.caller.instance!r}"
        return Failed(Refused.__name__, Medium.DRAM, 0, short(cause))
