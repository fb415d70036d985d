"""What SGLang holds of a room on the decode side."""

from typing import Any, NoReturn

from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVReceiver, KVTransferError

from mempool.security.access import ClusterAccess


class MemServeKVReceiver(CommonKVReceiver):
    def __init__(self, mgr: Any, bootstrap_addr: str, bootstrap_room: int) -> None:
        # Two requests in one room would end each other's transfers, and SGLang's scheduler with them.
        self._owns_room = bootstrap_room not in mgr.request_status
        super().__init__(mgr, bootstrap_addr, bootstrap_room)
        if not self._owns_room:
            self.conclude_state = KVPoll.Failed

    @classmethod
    def connect_with(cls, access: ClusterAccess) -> None:
        """For SGLang's sockets to prefill ranks, all of which it makes in one context."""
        access.present(cls._ctx)

    def poll(self) -> Any:
        status = super().poll()
        # Before its destination is made: prefill need not send what is fetched meanwhile.
        requested = self.init_time is not None
        held = (
            not requested
            and status == KVPoll.WaitingForInput
            and self.kv_mgr.waits_for_fetch(self.bootstrap_room)
        )
        return KVPoll.Bootstrapping if held else status

    def clear(self) -> None:
        if self._owns_room:
            self.kv_mgr.decode.withdraw(self.bootstrap_room)
            super().clear()

    def abort(self) -> None:
        if self._owns_room:
            super().abort()

    def _register_kv_args(self) -> bool:
        """Once for all ranks of an instance that were not known."""
        for rank in self.bootstrap_infos or ():
            socket, _ = self._connect_to_bootstrap_server(rank)
            self.kv_mgr.connections.watch(self.bootstrap_addr, socket)
        return bool(super()._register_kv_args())

    def failure_exception(self) -> NoReturn:
        if self._owns_room:
            super().failure_exception()
        raise KVTransferError(self.bootstrap_room, "another request is in this room")
