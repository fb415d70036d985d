"""The prefill side: learns destinations, sends blocks, tells decode at once when a room has failed."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import (
    ABORT_TAG,
    AbortNotification,
)
from sglang.srt.disaggregation.common.utils import AuxDataCodec

from mempool.errors import FrameError, LayoutMismatch, TransferError
from mempool.paged import PagedBuffers
from mempool.transfer.cut import TransferMode
from mempool.transfer.outgoing import OutgoingTransfer
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports
from sglang_memserve.request_state import request_state
from sglang_memserve.transfer import control
from sglang_memserve.transfer.by_layer import ByLayer
from sglang_memserve.transfer.refused_rooms import RefusedRooms

if TYPE_CHECKING:
    from sglang_memserve.transfer.manager import MemServeKVManager

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 10.0
_MAX_UNCLAIMED = 16384


class RoomDestination:
    """One decode rank's part in a room, in the shape in which the common layer reads it."""

    dst_port = 0

    def __init__(self, asked: control.Destination) -> None:
        self.endpoint = asked.endpoint
        self.is_dummy = asked.is_dummy
        self.required_dst_info_num = asked.required_destinations
        self.decode_prefix_len = asked.decode_prefix_len
        self.transfer: OutgoingTransfer | None = None
        self.done = asked.is_dummy
        # When its first blocks were queued.
        self.began: float | None = None


class PrefillSide:
    """`mode`: how blocks are cut into messages; `by_layer`: what knows of layers, where they go ahead;
    `max_bandwidth`: as that of a CachingAgent.
    """

    def __init__(
        self,
        manager: "MemServeKVManager",
        buffers: PagedBuffers,
        mode: TransferMode = TransferMode.AGGREGATED,
        by_layer: ByLayer | None = None,
        max_bandwidth: int = 0,
    ) -> None:
        self._manager = manager
        self._mode = mode
        self._by_layer = by_layer
        self._buffers = buffers
        self._layout = buffers.layout
        self._device = buffers.device
        self._blocks = BlockSender(transports=Transports(max_bandwidth))
        # Orders what decode's messages, ended transfers and the scheduler do to a room.
        self.lock = threading.RLock()
        self._open_rooms: set[int] = set()
        self._refused = RefusedRooms(seconds=manager.bootstrap_timeout)
        self._unclaimed: dict[int, float] = {}
        self._bad_frames = 0
        self._seconds = 0.0
        self._begun_early = 0
        threading.Thread(target=self._listen, name="memserve-control", daemon=True).start()

    def counters(self) -> dict[str, int | float]:
        return {
            "kv_bytes_sent": self._blocks.bytes_sent,
            "kv_send_seconds": self._seconds,
            "prefills_begun_early": self._begun_early,
            "bad_frames": self._bad_frames,
            "open_rooms": len(self._manager.transfer_infos.keys() | self._open_rooms),
        }

    # The scheduler's thread.

    def open_room(self, room: int) -> bool:
        """False if another request is in the room."""
        with self.lock:
            if room in self._open_rooms:
                return False
            self._open_rooms.add(room)
            self._unclaimed.pop(room, None)
            reason = self._refused.reason(room)
            if reason is not None:
                self._manager.record_failure(room, reason)
                self._manager.update_status(room, KVPoll.Failed)
            return True

    def close_room(self, room: int) -> str | None:
        """Ends what has not ended, before SGLang frees the pages; returns the room's failure, if it had one.

        A destination that comes after this is refused; without that decode would wait for its timeout.
        """
        with self.lock, self._manager.failure_lock:
            self._open_rooms.discard(room)
            if self._by_layer is not None:
                self._by_layer.forget(room)
            failure: str | None = self._manager.failure_records.pop(room, None)
            reason = failure or "the request ended on the prefill instance"
            self.tell_failed(room, reason)
            if room not in self._manager.transfer_infos:
                self._refused.add(room, reason)
            return failure

    def refuse_room(self, room: int, reason: str) -> None:
        """For a request that SGLang took in without a sender."""
        with self.lock:
            if room not in self._open_rooms:
                self._forget(room, reason)

    def send(
        self,
        room: int,
        kv_indices: npt.NDArray[np.int32],
        index_slice: slice,
        aux_index: int | None,
        wait_event: Any,
    ) -> None:
        """Queues pages for positions `index_slice` of the room's; `aux_index` is given with the last ones."""
        destinations = self._manager.transfer_infos.get(room)
        if not destinations or self._manager.request_status.get(room) in (None, KVPoll.Failed):
            return
        transfers = self._transfers(room)
        pages = np.asarray(kv_indices, dtype=np.int64)
        ready = self._ready(wait_event)
        handoff = None if aux_index is None else self._handoff(aux_index)
        runs = self._runs(room, pages, index_slice.start)
        for transfer in transfers:
            for run, again in runs:
                part = torch.from_numpy(pages[run])
                transfer.send(part, index_slice.start + run.start, ready, again=again)
            if handoff is not None:
                transfer.finish(index_slice.stop, handoff)
        if aux_index is not None and not transfers:
            self._manager.update_status(room, KVPoll.Success)

    def batch(self, stream: Any) -> contextlib.AbstractContextManager[None]:
        """Around the launch of a batch, on `stream` where there is one."""
        return contextlib.nullcontext() if self._by_layer is None else self._by_layer.batch(stream)

    def count_early(self, reqs: list[Any]) -> None:
        """Of requests that are computed now, those that begin before decode has answered."""
        for req in reqs:
            state = request_state(req)
            if req.pending_bootstrap and not state.began_early:
                state.began_early = True
                self._begun_early += 1

    def announce(self, room: int, slots: torch.Tensor, first: int) -> None:
        """The batch that is launched now writes the KV of whole pages to `slots` (`[n]`), for positions
        `first` and on of the room's pages. Where it `sends_by_layer`.
        """
        assert self._by_layer is not None
        pages = (slots[:: self._layout.page_size] // self._layout.page_size).cpu().numpy()
        self._by_layer.announce(room, self._transfers(room), pages.astype(np.int64), first)

    @property
    def sends_by_layer(self) -> bool:
        return self._by_layer is not None

    def _transfers(self, room: int) -> list[OutgoingTransfer]:
        """Blocks of which are about to be queued."""
        found = []
        for destination in self._manager.transfer_infos.get(room, {}).values():
            if destination.transfer is not None:
                destination.began = destination.began or time.monotonic()
                found.append(destination.transfer)
        return found

    def _runs(self, room: int, pages: npt.NDArray[np.int64], first: int) -> list[tuple[slice, bool]]:
        if self._by_layer is not None:
            return self._by_layer.left_over(room, pages, first)
        return [(slice(0, len(pages)), False)] if len(pages) else []

    def tell_failed(self, room: int, reason: str) -> None:
        """Never blocks."""
        for destination in list(self._manager.transfer_infos.get(room, {}).values()):
            if destination.transfer is not None:
                destination.transfer.fail(reason)

    def _ready(self, wait_event: Any) -> Callable[[], bool] | None:
        """Whether the KV is written and may be read. Nothing is asynchronous without CUDA."""
        if self._device.type != "cuda":
            return None if wait_event is None else wait_event.query
        events = [torch.cuda.current_stream(self._device).record_event()]
        if wait_event is not None:
            events.append(wait_event)
        return lambda: all(event.query() for event in events)

    def _handoff(self, aux_index: int) -> bytes:
        args = self._manager.kv_args
        rows = [
            AuxDataCodec.serialize_data_from_buffer(pointer + aux_index * size, size)
            for pointer, size in zip(args.aux_data_ptrs, args.aux_item_lens, strict=True)
        ]
        return control.encode(
            control.Handoff(self._manager._prefill_unique_rank(), rows, self._manager.prefilled)
        )

    # The block channel's thread.

    def _ended(self, room: int, destination: RoomDestination, error: TransferError | None) -> None:
        with self.lock:
            destinations = self._manager.transfer_infos.get(room, {})
            if destination not in destinations.values():
                return
            destination.done = True
            if destination.began is not None:
                self._seconds += time.monotonic() - destination.began
            if error is not None:
                self._manager.conclude_failure(bootstrap_room=room, failure_reason=str(error))
            elif all(d.done for d in destinations.values()):
                self._manager.conclude_transfer(bootstrap_room=room, status=KVPoll.Success, targets=[])

    # The control thread.

    def _listen(self) -> None:
        socket = self._manager.server_socket
        next_sweep = time.monotonic() + _SWEEP_SECONDS
        while not socket.closed:
            try:
                if socket.poll(_SWEEP_SECONDS * 1000):
                    self._handle(socket.recv_multipart())
                if time.monotonic() > next_sweep:
                    next_sweep = time.monotonic() + _SWEEP_SECONDS
                    self._sweep()
            except FrameError as error:
                self._bad_frames += 1
                logger.debug("dropped a control message: %s", error)
            except Exception:
                if not socket.closed:
                    logger.exception("control message")

    def _handle(self, frames: list[bytes]) -> None:
        if frames[0] == ABORT_TAG:
            aborted = AbortNotification.from_zmq(frames)
            if aborted is not None:
                self._aborted_by_decode(aborted.room)
            return
        message = control.decode_control(frames)
        if isinstance(message, control.Hello):
            try:
                self._layout.require_same(message.layout)
            except LayoutMismatch as error:
                logger.error("refusing the decode instance at %s: %s", message.endpoint, error)
        else:
            self._asked(message)

    def _aborted_by_decode(self, room: int) -> None:
        with self.lock:
            if room in self._open_rooms:
                if self._manager.request_status.get(room) != KVPoll.Success:
                    self._manager.conclude_failure(
                        bootstrap_room=room, failure_reason="aborted by the decode instance"
                    )
            else:
                self._forget(room, "aborted by the decode instance before the request came")

    def _asked(self, asked: control.Destination) -> None:
        destination = RoomDestination(asked)
        # Opened under the lock: a transfer that ends at once must find its room.
        with self.lock:
            if not asked.is_dummy:
                destination.transfer = self._blocks.open(
                    self._buffers,
                    asked.endpoint,
                    asked.ticket,
                    partial(self._ended, asked.room, destination),
                    mode=self._mode,
                )
            reason = self._reason_to_refuse(asked)
            if reason is None:
                self._admit(asked, destination)
            elif destination.transfer is not None:
                destination.transfer.fail(reason)

    def _reason_to_refuse(self, asked: control.Destination) -> str | None:
        manager, room = self._manager, asked.room
        reason = self._refused.reason(room)
        if reason is not None:
            return reason
        status = manager.request_status.get(room)
        if status == KVPoll.Failed:
            # Perhaps because of what another rank of decode asked.
            return str(manager.failure_records.get(room, f"room {room} has failed on the prefill instance"))
        if status not in (None, KVPoll.Bootstrapping):
            return f"room {room} already has its destination"
        if len(self._unclaimed) >= _MAX_UNCLAIMED:
            return f"{_MAX_UNCLAIMED} destinations wait for requests that have not come"
        try:
            self._layout.require_same(asked.layout)
        except LayoutMismatch as error:
            if room in self._open_rooms:
                manager.conclude_failure(bootstrap_room=room, failure_reason=str(error))
            else:
                self._refused.add(room, str(error))
            return str(error)
        return None

    def _admit(self, asked: control.Destination, destination: RoomDestination) -> None:
        manager, room = self._manager, asked.room
        destinations = manager.transfer_infos.setdefault(room, {})
        destinations[asked.endpoint] = destination
        if room not in self._open_rooms:
            self._unclaimed.setdefault(room, time.monotonic())
        if len(destinations) >= asked.required_destinations:
            manager.resolve_kv_replica_factor(destinations)
            manager.req_to_decode_prefix_len[room] = asked.decode_prefix_len
            manager.update_status(room, KVPoll.WaitingForInput)

    def _sweep(self) -> None:
        """Drops destinations whose request never came."""
        limit = time.monotonic() - self._manager.bootstrap_timeout
        with self.lock:
            for room in [room for room, since in self._unclaimed.items() if since < limit]:
                self._forget(room, "the request did not reach the prefill instance in time")

    def _forget(self, room: int, reason: str) -> None:
        self.tell_failed(room, reason)
        self._unclaimed.pop(room, None)
        self._manager.transfer_infos.pop(room, None)
        self._manager.req_to_decode_prefix_len.pop(room, None)
        self._manager.request_status.pop(room, None)
        self._refused.add(room, reason)
