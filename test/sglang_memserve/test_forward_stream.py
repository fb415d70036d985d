"""After what KV may be read or overwritten, on a device that runs ahead."""

import torch
from recorded_device import RecordedDevice

from mempool.device import Device
from sglang_memserve.forward_stream import ForwardStream


def test_without_cuda_nothing_runs_behind_the_scheduler():
    assert ForwardStream(Device(torch.device("cpu")), object()).record() is None


def test_without_overlap_forwards_are_on_the_current_stream():
    device, kv = RecordedDevice(), torch.zeros(1)
    device.watch(kv=kv)
    with device.on(device.schedule):
        kv.add_(1)
    ForwardStream(device).record().synchronize()
    device.host_reads(kv)
    assert device.races == []


def test_under_overlap_what_the_scheduler_itself_writes_counts_too():
    device, kv, restored = RecordedDevice(), torch.zeros(1), torch.zeros(1)
    device.watch(kv=kv, restored=restored)
    forward = device.stream("forward")
    with device.on(forward):
        kv.add_(1)
    with device.on(device.schedule):
        restored.add_(1)
    ForwardStream(device, forward).record().synchronize()
    device.host_reads(kv)
    device.host_reads(restored)
    assert device.races == []
