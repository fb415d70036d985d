"""Where a rank hears from its peers can be pinned, so that a firewall can let them through."""

from types import SimpleNamespace

import pytest
import zmq
from sglang.srt.disaggregation.common.conn import CommonKVManager
from sglang.srt.disaggregation.utils import DisaggregationMode

from mempool.security.access import LOOPBACK_ONLY, ClusterAccess, UnprotectedAddress
from mempool.security.cluster_key import ClusterKey
from sglang_memserve.transfer.common_layer import open_rank_socket
from sglang_memserve.transfer.manager import MemServeKVManager


@pytest.fixture
def manager():
    """What SGLang's common layer has bound to a free port, of rank 1."""
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    args = SimpleNamespace(engine_rank=1)
    yield SimpleNamespace(server_socket=socket, local_ip="127.0.0.1", rank_port=port, kv_args=args)
    context.destroy(linger=0)


def heard(manager, port, access=LOOPBACK_ONLY):
    sender = zmq.Context.instance().socket(zmq.PUSH)
    access.present(sender)
    sender.connect(f"tcp://127.0.0.1:{port}")
    sender.send(b"hello")
    try:
        return bool(manager.server_socket.poll(2000)) and manager.server_socket.recv() == b"hello"
    finally:
        sender.close(linger=0)


def test_a_rank_listens_at_the_pinned_port_plus_its_number(manager, free_port):
    first = free_port()
    open_rank_socket(manager, first - 1, LOOPBACK_ONLY)
    assert manager.rank_port == first
    assert heard(manager, first)


def test_without_a_pinned_port_it_listens_at_a_free_one(manager):
    open_rank_socket(manager, 0, LOOPBACK_ONLY)
    assert heard(manager, manager.rank_port)


def test_with_a_key_a_rank_hears_the_cluster_alone(manager):
    access = ClusterAccess(ClusterKey("k" * 32))
    authenticator = open_rank_socket(manager, 0, access)
    try:
        assert not heard(manager, manager.rank_port)
        assert not heard(manager, manager.rank_port, ClusterAccess(ClusterKey("f" * 32)))
        assert heard(manager, manager.rank_port, access)
    finally:
        authenticator.close()


def test_without_a_key_a_rank_listens_on_the_loopback_alone(manager):
    manager.local_ip = "0.0.0.0"
    with pytest.raises(UnprotectedAddress, match=r"0\.0\.0\.0"):
        open_rank_socket(manager, 0, LOOPBACK_ONLY)
    open_rank_socket(manager, 0, ClusterAccess(insecure=True))
    assert heard(manager, manager.rank_port)


@pytest.mark.parametrize("mode", [DisaggregationMode.PREFILL, DisaggregationMode.DECODE])
def test_prefill_registers_the_pinned_port(manager, free_port, monkeypatch, mode):
    first, registered = free_port(), []

    def constructor(self, args, mode, *rest):
        self.__dict__ |= vars(manager)
        if mode == DisaggregationMode.PREFILL:
            self.register_to_bootstrap()

    monkeypatch.setenv("MEMSERVE_RANK_PORT", str(first - 1))
    monkeypatch.setattr("sglang_memserve.limits.refuse_unsupported_args", lambda args: None)
    monkeypatch.setattr(CommonKVManager, "__init__", constructor)
    monkeypatch.setattr(
        CommonKVManager, "register_to_bootstrap", lambda self: registered.append(self.rank_port)
    )
    made = MemServeKVManager(None, mode, None)
    assert made.rank_port == first
    assert registered == ([first] if mode == DisaggregationMode.PREFILL else [])
