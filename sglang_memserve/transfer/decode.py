"""The decode side: names destinations, lands blocks, hands the request over to SGLang's queues."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mempool.errors import PeerDied, TransferError
from mempool.paged import PagedBuffers
from mempool.sockets import endpoint_of
from mempool.transfer.receiver import BlockReceiver
from mempool.transports.registry import Transports
from sglang_memserve.forward_stream import ForwardStream
from sglang_memserve.transfer import control
from sglang_memserve.transfer.common_layer import DecodeLayer
from sglang_memserve.transfer.first_token import FirstTokens
from sglang_memserve.transfer.host import SideHost


@dataclass(eq=False, slots=True)
class DecodeRoom:
    """`tickets`: several where one decode rank gets KV from several prefill ranks. `waiting`: the request
    whose first token is streamed as the KV lands; None where the scheduler streams it.
    """

    number: int
    tickets: list[int] = field(default_factory=list)
    waiting: Any = None


class DecodeSide:
    """`buffers`: SGLang's KV pool. `forward_stream`: as ForwardStream has it. `port`:
    where blocks are received; 0 for a free one. `encrypt`: whether they must come encrypted. `fabrics`: URLs
    where they are received as well, best first.
    """

    def __init__(
        self,
        host: SideHost,
        buffers: PagedBuffers,
        forward_stream: Any,
        *,
        port: int = 0,
        encrypt: bool = False,
        fabrics: Sequence[str] = (),
    ) -> None:
        self._host = host
        self._common = DecodeLayer(host)
        self._forward_stream = ForwardStream(buffers.device, forward_stream)
        self._buffers = buffers
        self._layout = buffers.layout
        self._blocks = BlockReceiver(
            endpoint_of("stream", host.local_ip, port),
            transports=Transports(access=host.access),
            encrypt=encrypt,
            fabrics=fabrics,
        )
        # Scheduler thread only.
        self._rooms: dict[int, DecodeRoom] = {}
        self._first_tokens: FirstTokens | None = None

    def counters(self) -> dict[str, int]:
        return {
            "kv_bytes_received": self._blocks.bytes_received,
            "bad_frames": self._blocks.bad_frames,
            "open_transfers": self._blocks.expected,
            "open_rooms": sum(bool(room.tickets) for room in self._rooms.values()),
            "first_tokens_streamed_early": 0 if self._first_tokens is None else self._first_tokens.streamed,
        }

    def expect_first_token(self, scheduler: Any, metadata: Any, req: Any) -> None:
        """Lets the first token of a request that was queued be streamed as its KV lands.

        `metadata`: SGLang's metadata buffers. The first call comes once the scheduler is set up.
        """
        if self._first_tokens is None:
            self._first_tokens = FirstTokens(scheduler, metadata)
        if self._first_tokens.can_stream(req):
            room = self._room(req.bootstrap_room)
            # Another request in the same room will be refused.
            if room.waiting is None:
                room.waiting = req

    def registration(self) -> list[bytes]:
        """The message that makes this instance known to a prefill rank."""
        return control.frames(control.Registration(self._blocks.endpoint, self._layout))

    def destination(
        self,
        number: int,
        kv_indices: npt.NDArray[np.int32],
        aux_index: int | None,
        decode_prefix_len: int,
        required_destinations: int,
        is_dummy: bool,
    ) -> list[bytes]:
        """Lets the room's blocks land in the pages `kv_indices` (`[n]`), and its metadata in row `aux_index`.

        Returns the message that asks a prefill rank for them; that rank waits for `required_destinations` of
        these. `decode_prefix_len`: tokens whose KV is here already. `is_dummy`: this rank is sent nothing.
        """
        ticket, key = (0, None) if is_dummy else self._admit(number, kv_indices, aux_index)
        return control.frames(
            control.Destination(
                room=number,
                endpoint=self._blocks.endpoint,
                layout=self._layout,
                ticket=ticket,
                decode_prefix_len=decode_prefix_len,
                required_destinations=required_destinations,
                is_dummy=is_dummy,
                key=key,
                fabrics=self._blocks.fabrics,
            )
        )

    def withdraw(self, number: int) -> None:
        """SGLang frees the room's pages after this: not a byte may land in them any more."""
        room = self._rooms.pop(number, None)
        if room is not None:
            room.waiting = None
            for ticket in room.tickets:
                self._blocks.withdraw(ticket)

    def _room(self, number: int) -> DecodeRoom:
        return self._rooms.setdefault(number, DecodeRoom(number))

    def _admit(
        self, number: int, kv_indices: npt.NDArray[np.int32], aux_index: int | None
    ) -> tuple[int, bytes | None]:
        """Ticket and key."""
        pages = torch.from_numpy(np.asarray(kv_indices, dtype=np.int64))
        # A forward that was launched before its request ended may still write to pages given away since.
        after = self._forward_stream.record()
        room = self._room(number)
        key = self._blocks.new_key()
        ticket = self._blocks.expect(
            self._buffers,
            pages,
            partial(self._landed, room, aux_index),
            partial(self._failed, room),
            after,
            key,
        )
        room.tickets.append(ticket)
        return ticket, key

    def _landed(self, room: DecodeRoom, aux_index: int | None, private: bytes) -> None:
        """On the block channel's thread. Raises FrameError."""
        handoff = control.decode_handoff(private)
        self._common.check_rows(handoff.rows)
        if aux_index is not None:
            self._common.write_rows(aux_index, handoff.rows)
            self._stream_first_token(room, aux_index)
        if handoff.origin is not None:
            self._host.introduce(room.number, handoff.origin)
        # Last: the scheduler reads the rows once the status says that they are there.
        self._common.landed(room.number, handoff.prefill_rank)

    def _stream_first_token(self, room: DecodeRoom, row: int) -> None:
        req, room.waiting = room.waiting, None
        # Where one rank sends all of it, all of it is here.
        if req is not None and self._common.prefill_ranks(room.number) == 1:
            assert self._first_tokens is not None
            self._first_tokens.stream(req, row)

    def _failed(self, room: DecodeRoom, error: TransferError) -> None:
        """On the block channel's thread."""
        # The router reads from the words whose failure it is.
        lost = "lost the prefill instance: " if isinstance(error, PeerDied) else ""
        self._common.failed(room.number, lost + error.cause)
