"""What waits for what on a device that runs ahead, and that nothing else calls CUDA."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recorded_device import RecordedDevice

import mempool
from mempool.arena import DramArena
from mempool.device import CudaDevice, Device, all_past
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
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority=0: SimpleNamespace(priority=priority))
    assert CudaDevice(torch.device("cuda")).new_stream().priority == -1


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
