"""What waits for what on a device that runs ahead, and that nothing else calls CUDA."""

import ast
import threading
from pathlib import Path

import pytest
import torch
from recorded_device import RecordedDevice

import mempool
from mempool.arena import DramArena
from mempool.device import CudaDevice, Device, all_past
from mempool.errors import MemPoolError
from mempool.paged import PagedBuffers

ROOT = Path(mempool.__file__).parents[1]
# They measure devices, or ask whether there is one before anything is on it.
ALLOWED = (
    "mempool/device.py",
    "sglang_memserve/calibrate/",
    "sglang_memserve/cpu/platform.py",
    "sglang_memserve/cpu_host.py",
    "sglang_memserve/launch_server.py",
    "sglang_memserve/bench/stock_plugin.py",
)


def cuda_calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "cuda":
            yield f"{path}:{node.lineno}: .cuda"
        elif isinstance(node, ast.keyword) and node.arg == "pin_memory":
            yield f"{path}:{node.value.lineno}: pin_memory"
        elif isinstance(node, ast.ImportFrom | ast.Import) and "torch.cuda" in ast.unparse(node):
            yield f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_nothing_but_its_one_home_calls_cuda():
    paths = [path for package in ("mempool", "sglang_memserve") for path in (ROOT / package).rglob("*.py")]
    assert len(paths) > 100
    others = [path for path in paths if not str(path.relative_to(ROOT)).startswith(ALLOWED)]
    assert [call for path in others for call in cuda_calls(path)] == []
    assert list(cuda_calls(ROOT / ALLOWED[0]))


def test_a_new_stream_is_not_from_the_pool_of_the_engines(monkeypatch):
    priorities = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority=0: priorities.append(priority))
    CudaDevice(torch.device("cuda")).new_stream()
    assert priorities == [-1]


def test_a_copy_to_the_host_is_here_once_the_device_is_past_it():
    device = RecordedDevice()
    copy = device.to_host(torch.tensor([1, 2]), torch.int32)
    assert not copy.is_here
    device.catch_up()
    assert copy.is_here
    assert copy.tensor().tolist() == [1, 2]
    assert device.waits == []
    assert device.to_host(torch.tensor([3]), torch.int64).tensor().tolist() == [3]
    assert len(device.waits) == 1


def test_a_copy_on_a_cpu_is_here_at_once():
    copy = Device(torch.device("cpu")).to_host(torch.tensor([1, 2]), torch.int32)
    assert copy.is_here
    assert copy.tensor().dtype is torch.int32


def test_all_events_have_to_be_past():
    device = RecordedDevice()
    first = device.schedule.record_event()
    ready = all_past(None, first, device.schedule.record_event())
    first.past = True
    assert not ready()
    device.catch_up()
    assert ready()
    assert all_past(None, None) is None


@pytest.fixture
def device():
    return RecordedDevice()


@pytest.fixture
def make_buffers(make_paged, device):
    def make():
        plain = make_paged(4, seed=1, layers=1)
        return PagedBuffers(plain.engine_planes, plain.layout, device), plain.engine_planes[0]

    return make


def test_pages_are_overwritten_after_what_may_still_write_to_them(device, make_buffers):
    buffers, plane = make_buffers()
    forward = device.stream("forward")
    device.watch(plane=plane)
    with device.on(forward):
        plane.add_(1)
    buffers.scatter(torch.tensor([2]), buffers.host_blocks(1), forward.record_event())
    assert device.races == []


def test_blocks_may_be_overwritten_once_they_are_scattered(device, make_buffers):
    buffers, plane = make_buffers()
    blocks = buffers.host_blocks(1)
    device.watch(plane=plane, blocks=blocks)
    buffers.scatter(torch.tensor([2]), blocks)
    device.host_writes(blocks)
    device.host_reads(plane)
    assert device.races == []


def test_gathered_blocks_are_there_when_the_call_returns(device, make_buffers):
    buffers, plane = make_buffers()
    out = buffers.host_blocks(1)
    device.watch(plane=plane, out=out)
    buffers.gather(torch.tensor([2]), out)
    device.host_reads(out)
    device.host_writes(plane)
    assert device.races == []


def test_dram_is_written_to_after_its_event(device, make_buffers):
    buffers, _ = make_buffers()
    arena = DramArena(buffers.layout, 2, device)
    device.watch(rows=arena.rows)
    forward = device.stream("forward")
    with device.on(forward):
        arena.rows.add_(1)
    arena.scatter(torch.tensor([1]), buffers.host_blocks(1), forward.record_event())
    device.host_reads(arena.rows)
    assert device.races == []


class LongForward:
    """An event that the device is not past before the test says so."""

    def __init__(self):
        self.waited_for, self.past = threading.Event(), threading.Event()

    def synchronize(self):
        self.waited_for.set()
        assert self.past.wait(20)


@pytest.mark.parametrize("url", ["stream://127.0.0.1:0", "tcp://127.0.0.1:0"])
@pytest.mark.parametrize("encrypt", [False, True])
def test_a_ticket_is_withdrawn_without_waiting_for_the_engine(make_channel, make_paged, tools, url, encrypt):
    channel, after = (
        make_channel(make_paged(4, seed=1), make_paged(4), url=url, encrypt=encrypt),
        LongForward(),
    )
    transfer, there, _ = channel.begin([2], after=after)
    (ticket,) = channel.receiver._expected
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1)
    assert after.waited_for.wait(20)
    withdrawing = threading.Thread(target=channel.receiver.withdraw, args=[ticket])
    withdrawing.start()
    withdrawing.join(10)
    assert not withdrawing.is_alive()
    after.past.set()
    channel.carry_one(3)
    assert not tools.blocks_of(channel.target, [2]).any()
    assert there.calls == 0


@pytest.mark.parametrize("url", ["stream://127.0.0.1:0", "tcp://127.0.0.1:0"])
@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("medium", ["hbm", "dram"])
def test_blocks_land_after_the_last_forward(
    make_channel, make_paged, make_buffers, device, url, encrypt, medium
):
    buffers, memory = make_buffers()
    if medium == "dram":
        buffers = DramArena(buffers.layout, 4, device)
        memory = buffers.rows
    device.watch(memory=memory)
    channel = make_channel(make_paged(4, seed=2, layers=1), buffers, url=url, encrypt=encrypt)
    with device.on(device.schedule):
        memory.add_(1)
    transfer, there, _ = channel.begin([2], after=device.schedule.record_event())
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1)
    assert there.wait().error is None
    device.host_reads(memory)
    assert device.races == []


def test_blocks_of_several_pieces_go_both_ways_between_scattered_rows(device, make_paged):
    plain = make_paged(8, seed=1, layers=1)
    block = plain.layout.block_bytes
    buffers = PagedBuffers(plain.engine_planes, plain.layout, device, piece_bytes=2 * block)
    arena = DramArena(plain.layout, 8, device)
    pages, rows = torch.tensor([7, 1, 2, 5, 0]), torch.tensor([3, 4, 5, 0, 1])
    expected = plain.host_blocks(5)
    plain.gather(pages, expected)
    buffers.gather_to(pages, arena.parts(rows))
    assert torch.equal(arena.rows[rows], expected)
    for plane in plain.engine_planes:
        plane.zero_()
    buffers.begin_scatter(pages, arena.parts(rows))
    back = plain.host_blocks(5)
    plain.gather(pages, back)
    assert torch.equal(back, expected)
    assert buffers._on_device.numel() == 2 * block


def test_staging_on_the_device_is_written_to_again_in_order(device, make_paged):
    plain = make_paged(4, seed=1, layers=1)
    buffers = PagedBuffers(plain.engine_planes, plain.layout, device, piece_bytes=1)
    arena = DramArena(plain.layout, 4, device)
    buffers.gather_to(torch.tensor([1]), arena.parts(torch.tensor([0])))
    device.watch(staging=buffers._on_device, plane=plain.engine_planes[0], rows=arena.rows)
    buffers.begin_scatter(torch.tensor([0, 3]), arena.parts(torch.tensor([0, 2])))
    buffers.gather_to(torch.tensor([3, 2]), arena.parts(torch.tensor([3, 1])))
    device.host_reads(arena.rows)
    assert device.races == []


@pytest.mark.parametrize("shapes", [[(2, 0)], [(1, 1), (2, 0)], [(3, -1)]])
def test_parts_of_the_wrong_size_are_refused(device, make_buffers, shapes):
    buffers, _ = make_buffers()
    width = buffers.layout.block_bytes
    parts = [torch.zeros((rows, width + more), dtype=torch.uint8) for rows, more in shapes]
    with pytest.raises(MemPoolError, match="3 pages need"):
        buffers.begin_scatter(torch.tensor([0, 1, 2]), parts)
