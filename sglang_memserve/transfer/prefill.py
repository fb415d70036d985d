"""The prefill side: sends blocks, and tells decode at once when a room has failed."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from mempool.device import DeviceEvent, all_past
from mempool.errors import PeerDied, TransferError
from mempool.flags import TransferMode
from mempool.paged import PagedBuffers
from mempool.transfer.outgoing import OutgoingTransfer
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports
from sglang_memserve.request_state import request_state
from sglang_memserve.transfer import control
from sglang_memserve.transfer.by_layer import ByLayer
from sglang_memserve.transfer.common_layer import PrefillLayer
from sglang_memserve.transfer.control_listener import ControlListener
from sglang_memserve.transfer.host import SideHost
from sglang_memserve.transfer.rendezvous import Rendezvous
from sglang_memserve.transfer.rooms import MAX_UNCLAIMED, Room, RoomDestination, Rooms

PageNumbers: TypeAlias = npt.NDArray[np.int32] | torch.Tensor


class PrefillSide:
    """All methods but `fail_room` belong to the scheduler's thread, and none blocks.

    `mode`: how blocks are cut into messages. `by_layer`: what knows which layers are written, where layers
    are sent ahead. `max_bandwidth`: bytes a second to each other instance at most; 0: no bound. `encrypt`:
    whether a decode instance that wants KV in clear is refused. `shm`: whether KV goes through shared memory
    to decode instances of this host and user. `max_unclaimed`: destinations that may wait for their request.
    """

    def __init__(
        self,
        host: SideHost,
        buffers: PagedBuffers,
        *,
        mode: TransferMode = TransferMode.AGGREGATED,
        by_layer: ByLayer | None = None,
        max_bandwidth: int = 0,
        encrypt: bool = False,
        shm: bool = True,
        max_unclaimed: int = MAX_UNCLAIMED,
    ) -> None:
        self._host = host
        self._common = PrefillLayer(host)
        self._mode = mode
        self._by_layer = by_layer
        self._buffers = buffers
        transports = Transports(max_bandwidth, access=host.access, shm=shm)
        self._blocks = BlockSender(transports=transports, encrypt=encrypt)
        self.rooms = Rooms(self._common.bootstrap_timeout_s, max_unclaimed)
        self._rendezvous = Rendezvous(self.rooms, self._common, buffers.layout, self._open_transfer)
        self._send_s = 0.0
        self._begun_early = 0
        self._control = ControlListener(host.server_socket, self._rendezvous.handle, self._rendezvous.sweep)

    def counters(self) -> dict[str, int | float]:
        return {
            "kv_bytes_sent": self._blocks.bytes_sent,
            "kv_send_seconds": self._send_s,
            "fabric_fallbacks": self._blocks.fabric_fallbacks,
            "prefills_begun_early": self._begun_early,
            "bad_frames": self._control.bad_frames,
            "refused_control_connections": self._control.refused,
            "open_rooms": len(self.rooms),
        }

    def close(self) -> None:
        """Ends the threads. Transfers under way end without a word to SGLang."""
        self._control.close()
        self._blocks.close()

    def open_room(self, number: int) -> Room | None:
        """The room of a request that has come; None if another request is in it."""
        with self.rooms.lock:
            room = self.rooms.open(number)
            reason = self.rooms.refusal(number)
            if room is not None and reason is not None:
                self._common.fail_at_once(number, reason)
            return room

    def close_room(self, room: Room, forget: Callable[[], None]) -> None:
        """Ends the room, and what has not ended in it, before SGLang frees the pages.

        `forget` is SGLang's own part of it. A destination that comes after this is refused: decode would wait
        for its timeout otherwise.
        """
        with self.rooms.lock:
            failure = self._common.take_failure(room.number)
            reason = failure or "the request ended on the prefill instance"
            room.fail(reason)
            if not room.destinations:
                self.rooms.refuse(room.number, reason)
            self.rooms.close(room, failure)
            forget()

    def refuse_room(self, number: int, reason: str) -> None:
        """For a request that SGLang took in without a sender."""
        self._rendezvous.turn_away(number, reason)

    def send(
        self,
        number: int,
        kv_indices: PageNumbers,
        index_slice: slice,
        aux_index: int | None,
        wait_event: DeviceEvent | None = None,
        indices_event: DeviceEvent | None = None,
    ) -> None:
        """Queues the pages `kv_indices` (`[n]`), for positions `index_slice` of the room's.

        `aux_index`: the request's metadata row, with its last pages; None before. `wait_event`: after which
        the pages may be read, `indices_event`: after which the host has their numbers; None for at once.
        """
        room = self.rooms.get(number)
        if room is None or not room.destinations or not self._common.takes_kv(number):
            return
        transfers = room.begin_transfers()
        pages = _as_pages(kv_indices)
        ready = self._ready(wait_event, indices_event)
        handoff = None if aux_index is None else self._handoff(aux_index)
        runs = self._runs(room, pages, index_slice.start)
        for transfer in transfers:
            for run, again in runs:
                transfer.send(pages[run], index_slice.start + run.start, ready, again=again)
            if handoff is not None:
                transfer.finish(index_slice.stop, handoff)
        if aux_index is not None and not transfers:
            self._common.succeed_at_once(number)

    def batch(self, stream: Any) -> contextlib.AbstractContextManager[None]:
        """Around the launch of a batch, on `stream` where there is one."""
        return contextlib.nullcontext() if self._by_layer is None else self._by_layer.batch(stream)

    def count_early(self, reqs: list[Any]) -> None:
        """Counts, of requests that are computed now, those that start before decode has answered."""
        for req in reqs:
            state = request_state(req)
            if req.pending_bootstrap and not state.began_early:
                state.began_early = True
                self._begun_early += 1

    @property
    def sends_by_layer(self) -> bool:
        return self._by_layer is not None

    @property
    def takes_pages_later(self) -> bool:
        """Whether `send` takes pages whose numbers are on their way to the host. Where layers are sent ahead,
        it compares them at once with what was announced.
        """
        return self._buffers.device.runs_ahead and self._by_layer is None

    def announce(self, number: int, slots: torch.Tensor, first: int) -> None:
        """The batch that is launched now writes the KV of whole pages to `slots` (`[n]`), for positions
        `first` and on of the room's pages. Where it `sends_by_layer`.
        """
        assert self._by_layer is not None
        room, page = self.rooms.get(number), self._buffers.layout.page_size
        if room is not None:
            pages = (slots[::page] // page).to(torch.int64)
            self._by_layer.announce(room.announced_pages, room.begin_transfers(), pages, first)

    def fail_room(self, number: int, reason: str) -> None:
        """Tells decode that the room has failed. From any thread."""
        room = self.rooms.get(number)
        if room is not None:
            room.fail(reason)

    def _runs(self, room: Room, pages: torch.Tensor, first: int) -> list[tuple[slice, bool]]:
        if self._by_layer is not None:
            return self._by_layer.left_over(room.announced_pages, pages.numpy(), first)
        return [(slice(0, len(pages)), False)] if len(pages) else []

    def _ready(self, *events: DeviceEvent | None) -> Callable[[], bool] | None:
        """Whether the KV is written and may be read. Nothing is asynchronous without CUDA."""
        current = self._buffers.device.current_stream()
        return all_past(*events, None if current is None else current.record_event())

    def _handoff(self, aux_index: int) -> bytes:
        rows = self._common.read_rows(aux_index)
        return control.encode(control.Handoff(self._common.rank, rows, self._host.origin))

    def _open_transfer(self, message: control.Destination, destination: RoomDestination) -> OutgoingTransfer:
        """On the control thread."""
        return self._blocks.open(
            self._buffers,
            message.endpoint,
            message.ticket,
            partial(self._ended, message.room, destination),
            mode=self._mode,
            key=message.key,
            fabrics=message.fabrics,
        )

    def _ended(self, number: int, destination: RoomDestination, error: TransferError | None) -> None:
        """On the block channel's thread."""
        with self.rooms.lock:
            room = self.rooms.get(number)
            # The room may have been closed since, and the number may be another request's by now.
            if room is None or destination not in room.destinations.values():
                return
            self._send_s += destination.end()
            if error is not None:
                # The router reads from the words whose failure it is.
                lost = "lost the decode instance: " if isinstance(error, PeerDied) else ""
                self._common.fail(number, f"{lost}{error}")
            elif all(each.done for each in room.destinations.values()):
                self._common.succeed(number)


def _as_pages(numbers: PageNumbers) -> torch.Tensor:
    # Those of a tensor may be on their way still: they are not read, nor converted.
    return numbers if isinstance(numbers, torch.Tensor) else torch.from_numpy(np.asarray(numbers, np.int64))
