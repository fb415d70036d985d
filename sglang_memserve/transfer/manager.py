"""The backend's manager: one in each scheduler process, on either side of the split."""

import logging
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVManager
from sglang.srt.disaggregation.utils import DisaggregationMode

from mempool.errors import MemPoolError
from mempool.flags import TransferMode
from mempool.security.authenticator import Authenticator
from mempool.sockets import endpoint_of
from sglang_memserve import limits
from sglang_memserve.caching.agent import CachingAgent
from sglang_memserve.caching.prefill_origins import PrefillOrigin
from sglang_memserve.kv_pool import paged_buffers
from sglang_memserve.options import InstanceOptions
from sglang_memserve.scheduler_wakeup import SchedulerWakeup
from sglang_memserve.transfer.bootstrap import answer_challenges
from sglang_memserve.transfer.by_layer import ByLayer
from sglang_memserve.transfer.common_layer import open_rank_socket
from sglang_memserve.transfer.connection_watch import ConnectionWatch
from sglang_memserve.transfer.decode import DecodeSide
from sglang_memserve.transfer.prefill import PageNumbers, PrefillSide
from sglang_memserve.transfer.receiver import MemServeKVReceiver

logger = logging.getLogger(__name__)


class MemServeKVManager(CommonKVManager):
    supports_deferred_decode_kv_release = False
    reports_transfer_latency = True

    def __init__(self, args: Any, disaggregation_mode: Any, server_args: Any, *rest: Any) -> None:
        limits.refuse_unsupported_args(server_args)
        # Before super(): the common layer's constructor may already change a room's status.
        self.wakeup = SchedulerWakeup()
        self._status_lock = threading.Lock()
        options = InstanceOptions.from_environment()
        self._rank_port, self.access = options.rank_port, options.access()
        self._authenticator: Authenticator | None = None
        answer_challenges(self.access.key)
        super().__init__(args, disaggregation_mode, server_args, *rest)
        self._open_rank_socket()
        self.prefill: PrefillSide | None = None
        self.decode: DecodeSide | None = None
        self.agent: CachingAgent | None = None
        self.connections: ConnectionWatch | None = None

    def register_to_bootstrap(self) -> None:
        """Called by the common layer's constructor, on prefill: others learn the rank's port here."""
        self._open_rank_socket()
        super().register_to_bootstrap()

    def _open_rank_socket(self) -> None:
        if self._authenticator is None:
            self._authenticator = open_rank_socket(self, self._rank_port, self.access)

    @property
    def origin(self) -> PrefillOrigin | None:
        """Where decode instances send answers back to: this instance."""
        return None if self.agent is None else self.agent.prefill_origin

    def introduce(self, room: int, origin: PrefillOrigin) -> None:
        """Names the prefill instance that served the room. Its request is unaffected where that fails."""
        if self.agent is not None:
            try:
                self.agent.introduce(room, origin)
            except MemPoolError as error:
                logger.warning("answers are not sent back to %s: %s", origin.instance.instance, error)

    def attach_agent(self, agent: CachingAgent | None) -> None:
        """The scheduler's agent. It is made once the pool is attached."""
        self.agent = agent

    def attach_pool(self, pool: Any, forward_stream: Any) -> None:
        """Starts to serve; SGLang makes the manager without the tensors of the KV pool.

        `forward_stream`: as ForwardStream has it.
        """
        limits.refuse_unsupported_pool(pool, self.kv_args.state_types)
        buffers = paged_buffers(pool)
        limits.refuse_unknown_layout(buffers.layout, self.kv_args.kv_item_lens)
        options = InstanceOptions.from_environment()
        encrypt = options.encrypt.applies_at(endpoint_of("stream", self.local_ip, 0))
        if self.disaggregation_mode == DisaggregationMode.PREFILL:
            mode = TransferMode(options.transfer)
            if options.caveat:
                logger.warning("%s", options.caveat)
            layers = buffers.layout.layers
            by_layer = ByLayer(pool, buffers.device, layers) if mode == TransferMode.BY_LAYER else None
            self.prefill = PrefillSide(
                self,
                buffers,
                mode=mode,
                by_layer=by_layer,
                max_bandwidth=options.max_bytes_per_second,
                encrypt=encrypt,
                shm=options.uses_shm,
            )
        else:
            port = options.transfer_port and options.transfer_port + self.kv_args.engine_rank
            self.decode = DecodeSide(
                self, buffers, forward_stream, port=port, encrypt=encrypt, fabrics=options.fabric_urls
            )
            self.connections = ConnectionWatch(self._on_lost, self.access)
            MemServeKVReceiver.connect_with(self.access)
            self._start_heartbeat_checker_thread()

    def counters(self) -> dict[str, Any]:
        parts = (self.prefill, self.decode)
        return {name: count for part in parts if part is not None for name, count in part.counters().items()}

    def waits_for_fetch(self, room: int) -> bool:
        return self.agent is not None and self.agent.waits_for_fetch(room)

    def expects_kv(self, req: Any) -> bool:
        """Whether KV that the prompt needs is on its way: fetched, or an answer that is sent back."""
        agent = self.agent
        return agent is not None and (
            agent.waits_for_fetch(req.bootstrap_room) or agent.waits_for_write_back(req)
        )

    def update_status(self, bootstrap_room: int, status: Any) -> None:
        # SGLang reads, compares and writes: two threads at once would lose the later status.
        with self._status_lock:
            super().update_status(bootstrap_room, status)
        self.wakeup.notify()

    def _on_lost(self, bootstrap_addr: str) -> None:
        """Fails the requests of a prefill instance. The first connection lost ends all of its ranks."""
        if bootstrap_addr in self.prefill_info_table:
            self._handle_node_failure(bootstrap_addr)

    # Prefill: SGLang's scheduler thread, which must never block here.

    def add_transfer_request(
        self,
        bootstrap_room: int,
        kv_indices: PageNumbers,
        index_slice: slice,
        is_last_chunk: bool,
        aux_index: int | None = None,
        state_indices: list[Any] | None = None,
        num_kv_tokens: int | None = None,
        *,
        wait_event: Any = None,
        indices_event: Any = None,
        trace_ctx: Any = None,
    ) -> None:
        assert self.prefill is not None
        row = aux_index if is_last_chunk else None
        self.prefill.send(bootstrap_room, kv_indices, index_slice, row, wait_event, indices_event)

    def send_kv_status_message(
        self, *, targets: Any, bootstrap_room: int, status: Any, failure_reason: str | None = None
    ) -> None:
        """Failures go over the block channel, which never blocks; success is the last block's landing."""
        if self.prefill is not None and status == KVPoll.Failed:
            self.prefill.fail_room(bootstrap_room, failure_reason or "KV transfer failed")

    # Decode.

    def build_receiver_registration_message(self) -> list[bytes]:
        assert self.decode is not None
        return self.decode.registration()

    def build_receiver_metadata_message(
        self,
        *,
        bootstrap_room: int,
        required_dst_info_num: int,
        kv_indices: npt.NDArray[np.int32],
        aux_index: int | None,
        state_indices: list[Any] | None,
        decode_prefix_len: int | None,
        is_dummy: bool,
        device_kv_indices: npt.NDArray[np.int32] | None = None,
    ) -> list[bytes]:
        assert self.decode is not None
        return self.decode.destination(
            bootstrap_room, kv_indices, aux_index, decode_prefix_len or 0, required_dst_info_num, is_dummy
        )
