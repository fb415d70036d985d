"""What SGLang holds of a room on the prefill side."""

from typing import Any, NoReturn

from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVSender, KVTransferError

from sglang_memserve.transfer.rooms import Room, RoomState


class MemServeKVSender(CommonKVSender):
    """Always ends by `clear`; SGLang itself calls that on some of its ways to end a request only."""

    def __init__(
        self,
        mgr: Any,
        bootstrap_addr: str,
        bootstrap_room: int,
        req_has_disagg_prefill_dp_rank: bool = False,
    ) -> None:
        # None for a second request in the room: it fails, and the first one goes on.
        self._room: Room | None = None
        super().__init__(mgr, bootstrap_addr, bootstrap_room, req_has_disagg_prefill_dp_rank)
        self._room = mgr.prefill.open_room(bootstrap_room)
        if self._room is None:
            self.conclude_state = KVPoll.Failed

    @property
    def supports_host_tensor_indices(self) -> bool:
        """Whether SGLang may give page numbers that are on their way to the host. Otherwise its scheduler's
        thread waits for them, behind a forward.
        """
        return bool(self.kv_mgr.prefill.takes_pages_later)

    def poll(self) -> Any:
        status = super().poll()
        # Its request stays where it is, and holds nobody else. Once it is being sent, a second request in the
        # room, which will be refused, may still name a source.
        held = (
            status == KVPoll.WaitingForInput
            and self.aux_index is None
            and self.kv_mgr.waits_for_fetch(self.bootstrap_room)
        )
        return KVPoll.Bootstrapping if held else status

    def abort(self) -> None:
        """SGLang's own leaves decode to its timeout, and often no call follows that would end the room."""
        if self._room_is_open:
            super().abort()
            self.clear()

    def clear(self) -> None:
        if self._room is not None and self._room_is_open:
            self.kv_mgr.prefill.close_room(self._room, super().clear)

    def failure_exception(self) -> NoReturn:
        self.conclude_state = KVPoll.Failed
        self.clear()
        self.trace_ctx.trace_req_finish()
        if self._room is None:
            failure: str | None = "another request is in this room"
        else:
            failure = self._room.failure
        raise KVTransferError(
            self.bootstrap_room,
            failure or "failed on another rank",
            is_from_another_rank=failure is None,
        )

    @property
    def _room_is_open(self) -> bool:
        return self._room is not None and self._room.state is RoomState.OPEN
