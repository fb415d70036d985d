"""One transfer, as its sender sees it."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from mempool import wire
from mempool.errors import FrameError, MemPoolError, TransferError
from mempool.flags import TransferMode
from mempool.store import BlockSource
from mempool.transfer.cut import Piece
from mempool.transfer.sealing import MessageSealer

logger = logging.getLogger(__name__)


class OpenTransfer(NamedTuple):
    """Connects if need be, and announces on which connection the transfer will come."""


class SendBlocks(NamedTuple):
    blocks: Piece
    ready: Callable[[], bool] | None


class SendFinish(NamedTuple):
    total: int
    private: bytes


class SendFail(NamedTuple):
    reason: str


SendTask = OpenTransfer | SendBlocks | SendFinish | SendFail


class Submit(Protocol):
    def __call__(self, transfer: "OutgoingTransfer", work: SendTask) -> None: ...


class OutgoingTransfer:
    """Made by `BlockSender.open`. Its methods may be called from any thread and never block.

    `on_end` is called once, on the sender's thread: with None when the receiver has everything, with the
    error otherwise, also when the receiver dies before anything was sent. It is not called after `fail`.
    After either the blocks may be overwritten: bytes that are still under way land in no finished transfer.

    `endpoints`: the receiver's, the first one first; `endpoint`: the one in use.
    """

    def __init__(
        self,
        submit: Submit,
        store: BlockSource,
        endpoints: Sequence[str],
        ticket: int,
        on_end: Callable[[TransferError | None], None],
        mode: TransferMode,
        key: bytes | None = None,
    ) -> None:
        self.store = store
        self.endpoint, *self._others = endpoints
        self.ticket = ticket
        self.mode = mode
        self.ended = False
        # Whether the connection in use needs no key.
        self.over_private = False
        # Made once, since it counts: a number must not come twice under a key.
        self._sealer = None if key is None else MessageSealer(key)
        self._submit = submit
        self._on_end = on_end
        submit(self, OpenTransfer())

    def send(
        self,
        pages: torch.Tensor,
        first: int,
        ready: Callable[[], bool] | None = None,
        *,
        planes: range | None = None,
        again: bool = False,
    ) -> None:
        """Sends the blocks at `pages` (int64 `[n]`) to positions `first` and on of the ticket's pages.

        `planes`: which planes of the blocks, all by default. `again`: blocks may have been queued for these
        positions before; the last ones stay. Blocks go in the order in which they were queued. Nothing is
        read before `ready` returns True; the sender's thread calls it again and again. Raises MemPoolError
        for planes outside the layout.
        """
        every = range(len(self.store.layout.plane_bytes))
        if planes is None:
            planes = every
        elif not planes or planes.step != 1 or planes[0] not in every or planes[-1] not in every:
            raise MemPoolError(f"{planes} of a block of {len(every)} planes")
        self._submit(self, SendBlocks(Piece(pages, first, planes, again), ready))

    def finish(self, total: int, private: bytes = b"") -> None:
        """Says that `total` blocks were sent in all; `private` is handed to the receiver's callback."""
        self._submit(self, SendFinish(total, private))

    def fail(self, reason: str) -> None:
        """Gives the transfer up, and says so to the receiver. What was not sent yet is dropped."""
        if not self.ended:
            self.ended = True
            self._submit(self, SendFail(wire.short(reason)))

    @property
    def has_key(self) -> bool:
        return self._sealer is not None

    @property
    def sealer(self) -> MessageSealer | None:
        """What seals its messages. None: they go in clear. For the sender's thread, as what follows."""
        return None if self.over_private else self._sealer

    def turn_to_next(self) -> bool:
        """Uses the receiver's next endpoint from now on, while nothing was sent. False: there is none."""
        if self._others:
            self.endpoint = self._others.pop(0)
            return True
        return False

    def header(self, message: wire.OfTicket) -> bytes:
        """The message for the wire, one without blocks."""
        sealer = self.sealer
        return wire.encode(message if sealer is None else sealer.seal(message))

    def opened(self, answer: wire.Answer | wire.Sealed) -> wire.Answer:
        """The receiver's own words. Raises FrameError.

        A refusal may come in clear: a receiver that has forgotten the ticket has no key to it any more.
        Whoever forges one could as well cut the connection.
        """
        if self.sealer is None or isinstance(answer, wire.Refuse):
            if isinstance(answer, wire.Sealed):
                raise FrameError("an encrypted answer to a message in clear")
            return answer
        if not isinstance(answer, wire.Sealed):
            raise FrameError("an answer in clear to an encrypted message")
        return self.sealer.open_answer(answer)

    def end(self, error: TransferError | None) -> None:
        if self.ended:
            return
        self.ended = True
        try:
            self._on_end(error)
        except Exception:
            logger.exception("the end of a transfer to %s was not taken", self.endpoint)
