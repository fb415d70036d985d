"""SGLang's common layer of KV transfer, as far as the two sides use it: the one module that knows its names.

It keeps, by room, a status that SGLang's scheduler polls and the reason of a failure. `manager` is its
CommonKVManager everywhere.
"""

from collections.abc import Mapping
from typing import Any

import zmq
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import ABORT_TAG, AbortNotification
from sglang.srt.disaggregation.common.utils import AuxDataCodec

from mempool.errors import FrameError, MemPoolError
from mempool.security.access import ClusterAccess
from mempool.security.authenticator import Authenticator
from mempool.sockets import endpoint_of
from sglang_memserve.transfer.control_listener import MAX_PARTS

# A frame of decode's, and how many messages of one decode rank may be unread before it has to wait.
_MAX_FRAME_BYTES, _RECEIVE_QUEUE_MESSAGES = 64 * 1024, 1024
# Tag, room, address, port and generation, each a short text; SGLang logs and keeps them whole.
_MAX_ABORT_BYTES = 256


def open_rank_socket(manager: Any, first: int, access: ClusterAccess) -> Authenticator:
    """Replaces the socket of this rank's control messages, which SGLang has bound to a free port.

    The new one hears whom `access` lets in, keeps no more than it can, and listens on the port `first` +
    rank, or on a free one where `first` is 0. Call this before prefill registers the port, and before a
    thread reads the socket. Raises MemPoolError.
    """
    port = first + int(manager.kv_args.engine_rank) if first else 0
    url = endpoint_of("tcp", manager.local_ip, port)
    context = manager.server_socket.context
    manager.server_socket.close(linger=0)
    authenticator = Authenticator(context, access)
    socket = manager.server_socket = context.socket(zmq.PULL)
    try:
        access.serve(socket, url)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_FRAME_BYTES)
        if "[" in url:
            socket.setsockopt(zmq.IPV6, 1)
        socket.bind(url)
    except (MemPoolError, zmq.ZMQError) as error:
        socket.close(linger=0)
        authenticator.close()
        if isinstance(error, MemPoolError):
            raise
        raise MemPoolError(f"cannot listen at {url}: {error}") from None
    manager.rank_port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
    return authenticator


class CommonLayer:
    """What both sides need of it: the metadata rows of requests."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @property
    def _args(self) -> Any:
        return self._manager.kv_args

    def read_rows(self, index: int) -> list[bytes]:
        """Row `index` of each of SGLang's metadata buffers."""
        return [
            AuxDataCodec.serialize_data_from_buffer(pointer + index * size, size)
            for pointer, size in zip(self._args.aux_data_ptrs, self._args.aux_item_lens, strict=True)
        ]

    def check_rows(self, rows: list[bytes]) -> None:
        """Raises FrameError for rows of other sizes than this instance's."""
        sizes, expected = [len(row) for row in rows], list(self._args.aux_item_lens)
        if sizes != expected:
            raise FrameError(
                f"metadata rows of {sizes} bytes, this instance has {expected}: "
                "start prefill and decode with the same flags"
            )

    def write_rows(self, index: int, rows: list[bytes]) -> None:
        """To row `index` of each buffer."""
        for buffer, row in enumerate(rows):
            AuxDataCodec.deserialize_data_to_buffer(self._args, buffer, index, row)


class PrefillLayer(CommonLayer):
    """The prefill side's part."""

    @property
    def bootstrap_timeout_s(self) -> float:
        """How long a request and its destination wait for each other."""
        return float(self._manager.bootstrap_timeout)

    @property
    def rank(self) -> int:
        return int(self._manager._prefill_unique_rank())

    def takes_kv(self, room: int) -> bool:
        """Whether SGLang knows the room, and it has not failed."""
        return self._manager.request_status.get(room) not in (None, KVPoll.Failed)

    def is_failed(self, room: int) -> bool:
        return bool(self._manager.request_status.get(room) == KVPoll.Failed)

    def is_successful(self, room: int) -> bool:
        return bool(self._manager.request_status.get(room) == KVPoll.Success)

    def has_all_destinations(self, room: int) -> bool:
        """Whether the room waits for none; it may have failed since."""
        return self._manager.request_status.get(room) not in (None, KVPoll.Bootstrapping)

    def failure(self, room: int) -> str | None:
        reason = self._manager.failure_records.get(room)
        return None if reason is None else str(reason)

    def take_failure(self, room: int) -> str | None:
        """The reason, which is forgotten."""
        with self._manager.failure_lock:
            reason = self._manager.failure_records.pop(room, None)
        return None if reason is None else str(reason)

    def fail_at_once(self, room: int, reason: str) -> None:
        """Nobody else is told."""
        self._manager.record_failure(room, reason)
        self._manager.update_status(room, KVPoll.Failed)

    def fail(self, room: int, reason: str) -> None:
        """Decode is told too, through the manager's `send_kv_status_message`. The first reason stays."""
        self._manager.conclude_failure(bootstrap_room=room, failure_reason=reason)

    def succeed(self, room: int) -> None:
        """Unless it has failed."""
        self._manager.conclude_transfer(bootstrap_room=room, status=KVPoll.Success, targets=[])

    def succeed_at_once(self, room: int) -> None:
        """Where nothing is sent."""
        self._manager.update_status(room, KVPoll.Success)

    def meet(self, room: int, destinations: Mapping[str, Any], decode_prefix_len: int) -> None:
        """All destinations are known. Decode has the KV of the first `decode_prefix_len` tokens."""
        self._manager.resolve_kv_replica_factor(destinations)
        self._manager.req_to_decode_prefix_len[room] = decode_prefix_len
        self._manager.update_status(room, KVPoll.WaitingForInput)

    def forget(self, room: int) -> None:
        """A room whose request never came."""
        self._manager.req_to_decode_prefix_len.pop(room, None)
        self._manager.request_status.pop(room, None)


class DecodeLayer(CommonLayer):
    """The decode side's part."""

    def prefill_ranks(self, room: int) -> int | None:
        """How many prefill ranks send a part of the room's KV."""
        ranks: int | None = self._manager.required_prefill_response_num_table.get(room)
        return ranks

    def landed(self, room: int, prefill_rank: int) -> None:
        """All that this prefill rank sends of the room is here."""
        self._manager.apply_prefill_status(
            bootstrap_room=room, status=KVPoll.Success, prefill_rank=prefill_rank
        )

    def failed(self, room: int, reason: str) -> None:
        """Where the room has failed before, the first reason stays: prefill only repeats an abort."""
        if self._manager.request_status.get(room) != KVPoll.Failed:
            self._manager.apply_prefill_status(
                bootstrap_room=room, status=KVPoll.Failed, prefill_rank=0, failure_reason=reason
            )


def is_abort(frames: list[bytes]) -> bool:
    """Whether decode's message is SGLang's own abort."""
    return bool(frames[0] == ABORT_TAG)


def aborted_room(frames: list[bytes]) -> int | None:
    """The room that decode has given up; None for a malformed message. Raises FrameError for a long one."""
    if len(frames) > MAX_PARTS or any(len(frame) > _MAX_ABORT_BYTES for frame in frames):
        raise FrameError(f"an abort of {len(frames)} frames and {sum(map(len, frames))} bytes")
    abort = AbortNotification.from_zmq(frames)
    return None if abort is None else int(abort.room)
