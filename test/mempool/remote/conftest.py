import pytest
import zmq

from mempool.address import Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.layout import BlockLayout
from mempool.pool import MemPool

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)


@pytest.fixture
def make_pool(open_things):
    def make(name, blocks=16):
        stores = {Medium.HBM: DramArena(LAYOUT, blocks), Medium.DRAM: DramArena(LAYOUT, blocks)}
        return open_things.enter_context(MemPool(MemPoolConfig(instance=name), stores=stores))

    return make


@pytest.fixture
def raw(open_things):
    """A socket that says what it likes to an endpoint."""

    def make(endpoint):
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        open_things.callback(context.destroy, linger=0)
        open_things.callback(socket.close, linger=0)
        socket.connect(endpoint)
        return socket

    return make


@pytest.fixture
def layout():
    return LAYOUT
