"""Both sides of the backend in one process: SGLang's own room keeping and our channel, no servers."""

import ctypes
import threading
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zmq
from sglang.srt.disaggregation.common import conn
from sglang.srt.disaggregation.utils import DisaggregationMode
from waiting import until

from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from mempool.security.access import LOOPBACK_ONLY
from sglang_memserve.scheduler_wakeup import SchedulerWakeup
from sglang_memserve.transfer.common_layer import open_rank_socket
from sglang_memserve.transfer.decode import DecodeSide
from sglang_memserve.transfer.manager import MemServeKVManager
from sglang_memserve.transfer.prefill import PrefillSide
from sglang_memserve.transfer.receiver import MemServeKVReceiver
from sglang_memserve.transfer.sender import MemServeKVSender

PAGE, HEADS, DIM, LAYERS, PAGES = 4, 2, 8, 3, 32


def make_buffers(seed: int | None, heads: int = HEADS, device=None) -> PagedBuffers:
    generator = torch.Generator().manual_seed(seed or 0)
    planes = [
        torch.zeros(PAGES * PAGE, heads, DIM)
        if seed is None
        else torch.randn(PAGES * PAGE, heads, DIM, generator=generator)
        for _ in range(2 * LAYERS)
    ]
    plane_bytes = PAGE * heads * DIM * 4
    layout = BlockLayout(
        kind="mha", dtype="float32", page_size=PAGE, layers=LAYERS, heads=heads,
        k_plane_bytes=plane_bytes, v_plane_bytes=plane_bytes,
    )  # fmt: skip
    buffers = PagedBuffers(planes, layout, device)
    buffers.engine_planes = planes
    return buffers


class Rows:
    """SGLang's metadata buffers: two of 8 and 16 bytes a request."""

    def __init__(self):
        self.arrays = [np.zeros((8, 8), np.uint8), np.zeros((8, 16), np.uint8)]

    def describe(self):
        return SimpleNamespace(
            aux_data_ptrs=[a.ctypes.data for a in self.arrays], aux_item_lens=[8, 16], state_types=[]
        )


def make_manager(mode: DisaggregationMode, context: zmq.Context, access=LOOPBACK_ONLY) -> MemServeKVManager:
    """What CommonKVManager.__init__ sets up and these tests use; its constructor needs a whole runtime."""
    manager = object.__new__(MemServeKVManager)
    manager.disaggregation_mode = mode
    manager.rows = Rows()
    manager.kv_args = manager.rows.describe()
    manager.kv_args.engine_rank = 0
    manager.is_mla_backend = False
    manager.local_ip = "127.0.0.1"
    manager.attn_tp_rank = manager.pp_rank = manager.attn_cp_rank = 0
    manager.pp_size = manager.attn_cp_size = 1
    manager.request_status = {}
    manager.failure_records = {}
    manager.failure_lock = threading.Lock()
    manager.transfer_infos = {}
    manager.req_to_decode_prefix_len = {}
    manager.prefill_response_tracker = {}
    manager.required_prefill_response_num_table = {}
    manager.deferred_bootstrap = None
    manager.defer_decode_allocation = manager.enable_staging = False
    manager._deferred_ack_targets, manager._staging_outstanding = {}, {}
    manager._deferred_ack_poisoned_rooms = set()
    manager.bootstrap_timeout = 300
    manager.server_socket = context.socket(zmq.PULL)
    manager.rank_port = manager.server_socket.bind_to_random_port("tcp://127.0.0.1")
    manager.is_dummy_cp_rank = manager.enable_all_cp_ranks_for_transfer = False
    manager.kv_shard_size = 1
    manager._staging_ctx = None
    manager.addr_to_rooms_tracker = defaultdict(set)
    manager.connection_lock = threading.Lock()
    manager.enable_deferred_decode_kv_release = False
    manager.waiting_timeout = 300
    manager.kv_item_lens_sum = manager.state_item_lens_sum = 0
    manager.wakeup = SchedulerWakeup()
    manager._status_lock = threading.Lock()
    manager.access = access
    manager.prefill = manager.decode = manager.agent = None
    return manager


class Split:
    """`how`: keyword arguments of `PrefillSide`, for the source's buffers; `to_decode`: of `DecodeSide`.
    `device`: what both sides' pools are on, `target_device` decode's alone, where it is not the CPU.
    """

    def __init__(
        self,
        decode_heads: int = HEADS,
        how=lambda source: {},
        to_decode=(),
        access=LOOPBACK_ONLY,
        device=None,
        target_device=None,
    ):
        self.context = zmq.Context()
        self.source = make_buffers(1, device=device)
        self.target = make_buffers(None, decode_heads, target_device or device)
        self.p = make_manager(DisaggregationMode.PREFILL, self.context, access)
        self.d = make_manager(DisaggregationMode.DECODE, self.context, access)
        self.authenticator = open_rank_socket(self.p, 0, access)
        if access.key is not None:
            MemServeKVReceiver.connect_with(access)
        self.p.prefill = PrefillSide(self.p, self.source, **how(self.source))
        self.d.decode = DecodeSide(self.d, self.target, None, **dict(to_decode))
        self.to_prefill = self.context.socket(zmq.PUSH)
        access.present(self.to_prefill)
        self.to_prefill.connect(f"tcp://127.0.0.1:{self.p.rank_port}")

    def sender(self, room):
        """What SGLang makes when the request comes to prefill."""
        return MemServeKVSender(self.p, "127.0.0.1:1", room)

    def receiver(self, room):
        """What SGLang makes when the request comes to decode, after the rendezvous with prefill's ranks."""
        receiver = MemServeKVReceiver(self.d, "127.0.0.1:1", room)
        receiver.bootstrap_infos = [
            {"rank_ip": "127.0.0.1", "rank_port": self.p.rank_port, "is_dummy": False}
        ]
        receiver.required_dst_info_num = 1
        if receiver.conclude_state is None:
            self.d.required_prefill_response_num_table[room] = 1
            self.d.update_status(room, conn.KVPoll.WaitingForInput)
        return receiver

    def another_decode_side(self):
        return DecodeSide(make_manager(DisaggregationMode.DECODE, self.context), make_buffers(None), None)

    def ask(self, room, pages, *, aux_index=3, prefix=0, dummy=False):
        receiver = self.receiver(room)
        receiver.bootstrap_infos[0]["is_dummy"] = dummy
        receiver.send_metadata(np.asarray(pages, np.int32), aux_index, decode_prefix_len=prefix)
        return receiver

    def send(self, sender, pages, *, aux_index=None, total=None):
        """Prefill's send of one chunk; the last one has `aux_index` and the number of pages in all."""
        if total is not None:
            sender.init(total, aux_index)
        elif sender.curr_idx == 0:
            sender.init(1 << 20)
        sender.send(np.asarray(pages, np.int32))

    def leftovers(self):
        """What either side still keeps of any room."""
        p, d = self.p, self.d
        tables = (p.request_status, p.req_to_decode_prefix_len, p.failure_records)
        tables += (d.request_status, d.prefill_response_tracker, d.required_prefill_response_num_table)
        counters = {"p": p.counters()["open_rooms"], "d": d.counters()["open_rooms"]}
        counters["transfers"] = d.counters()["open_transfers"]
        counters["unclaimed"] = p.prefill.rooms.unclaimed
        counters["watched"] = sum(len(peer._open) for peer in p.prefill._blocks._peers.values())
        return [table for table in tables if table] + [k for k, v in counters.items() if v]

    def close(self):
        self.p.prefill.close()
        self.d.decode._blocks.close()
        self.authenticator.close()
        self.context.destroy(linger=0)


def blocks(buffers, pages):
    out = buffers.host_blocks(len(pages))
    buffers.gather(torch.tensor(pages), out)
    return out


def fill_row(manager, index, value):
    for array in manager.rows.arrays:
        ctypes.memset(array[index].ctypes.data, value, array.shape[1])


@pytest.fixture
def make_split(monkeypatch):
    monkeypatch.setattr(conn, "get_parallel", lambda: SimpleNamespace(num_dp_ranks=1))
    made = []

    def make(**kwargs):
        made.append(Split(**kwargs))
        return made[-1]

    yield make
    for pair in made:
        pair.close()
        conn.CommonKVReceiver.close_all_sockets()


@pytest.fixture
def split(make_split):
    return make_split()


@pytest.fixture
def tools():
    return SimpleNamespace(until=until, blocks=blocks, fill_row=fill_row)
