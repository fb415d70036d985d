"""What SGLang holds of a room on the prefill side."""

from typing import Any, NoReturn

from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVSender, KVTransferError


class MemServeKVSender(CommonKVSender):
    """Ends in one way, `clear`; SGLang itself calls that on some of its ways to end a request only."""

    def __init__(
        self,
        mgr: Any,
        bootstrap_addr: str,
        bootstrap_room: int,
        req_has_disagg_prefill_dp_rank: bool = False,
    ) -> None:
        self._failure: str | None = None
        super().__init__(mgr, bootstrap_addr, bootstrap_room, req_has_disagg_prefill_dp_rank)
        self._owns_room = mgr.prefill.open_room(bootstrap_room)
        if not self._owns_room:
            self._failure = "another request is in this room"
            self.conclude_state = KVPoll.Failed

    def poll(self) -> Any:
        status = super().poll()
        # Its request stays where it is, and holds nobody else. Once it is on its way another one in its room,
        # which will be refused, may still name a source.
        held = (
            status == KVPoll.WaitingForInput
            and self.aux_index is None
            and self.kv_mgr.waits_for_fetch(self.bootstrap_room)
        )
        return KVPoll.Bootstrapping if held else status

    def abort(self) -> None:
        """SGLang's own leaves decode to its timeout, and often no call follows that would end the room."""
        if self._owns_room:
            super().abort()
            self.clear()

    def clear(self) -> None:
        if self._owns_room:
            self._owns_room = False
            with self.kv_mgr.prefill.lock:
                self._failure = self.kv_mgr.prefill.close_room(self.bootstrap_room)
                super().clear()

    def failure_exception(self) -> NoReturn:
        self.conclude_state = KVPoll.Failed
        self.clear()
        self.trace_ctx.trace_req_finish()
        raise KVTransferError(
            self.bootstrap_room,
            self._failure or "failed on another rank",
            is_from_another_rank=self._failure is None,
        )
