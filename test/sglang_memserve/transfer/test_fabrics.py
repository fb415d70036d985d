"""KV from prefill to decode of one host and user: through shared memory, or over what is left."""

import pytest
import torch
from sglang.srt.disaggregation.base.conn import KVPoll

from mempool.endpoints import SHM_URL
from mempool.errors import FrameError
from sglang_memserve.transfer import control

ROOM = 78


@pytest.fixture
def make_pair(make_split):
    def make(**to_decode):
        return make_split(to_decode={"fabrics": [SHM_URL], **to_decode})

    return make


def carried(split, tools, room=ROOM, pages=(20, 21, 22)):
    """The schemes of prefill's connections, once KV and metadata are there."""
    sender, receiver = split.sender(room), split.ask(room, list(pages))
    tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
    tools.fill_row(split.p, 5, 9)
    split.send(sender, [1, 2])
    split.send(sender, [4], aux_index=5, total=3)
    for end in (receiver, sender):
        tools.until(lambda end=end: end.poll() == KVPoll.Success)
        end.clear()
    assert torch.equal(tools.blocks(split.target, list(pages)), tools.blocks(split.source, [1, 2, 4]))
    assert all((array[3] == 9).all() for array in split.d.rows.arrays)
    return {endpoint.partition(":")[0] for endpoint in split.p.prefill._blocks._peers}


@pytest.mark.parametrize("encrypt", [False, True])
def test_kv_goes_through_shared_memory(make_pair, tools, encrypt):
    split = make_pair(encrypt=encrypt)
    assert carried(split, tools) == {"shm"}
    assert split.p.counters()["fabric_fallbacks"] == 0


def test_prefill_that_leaves_shared_memory_out_sends_over_tcp(make_split, tools):
    split = make_split(how=lambda source: {"shm": False}, to_decode={"fabrics": [SHM_URL]})
    assert carried(split, tools) == {"stream"}


def test_a_fabric_that_does_not_come_up_costs_no_request(make_pair, tools):
    split = make_pair()
    blocks = split.d.decode._blocks
    blocks.fabrics = (blocks.fabrics[0][:-32] + "1" * 32,)
    assert carried(split, tools) == carried(split, tools, ROOM + 1, (9, 10, 11)) == {"stream"}
    assert split.p.counters()["fabric_fallbacks"] == 1


@pytest.mark.parametrize(
    "fabrics", [("shm://x",) * 5, ("nonsense",), ("tcp://a..b:1",), ("shm://" + "x" * 300,)]
)
def test_endpoints_out_of_bounds_are_a_bad_frame(make_split, fabrics):
    message = control.decode_control(make_split().d.decode.destination(3, [3], 0, 0, 1, True))
    plain = {field: getattr(message, field) for field in message.__struct_fields__} | {"fabrics": fabrics}
    with pytest.raises(FrameError):
        control.decode_control(control.frames(control.Destination(**plain)))
