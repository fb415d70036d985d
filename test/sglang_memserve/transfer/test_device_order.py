"""KV between pools on a device that runs ahead: what is read, and overwritten, before it may be."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sglang.srt.disaggregation.base.conn import KVPoll

from mempool.flags import TransferMode
from sglang_memserve.transfer.by_layer import ByLayer, LayersWritten

ROOM = 5


def begin(split, tools):
    sender = split.sender(ROOM)
    receiver = split.ask(ROOM, [20, 21])
    tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
    return sender, receiver


def writes(device, stream, *tensors):
    with device.on(stream):
        for tensor in tensors:
            tensor.add_(1)


def waits_of_the_scheduler(device):
    return [where for thread, where in device.waits if thread == threading.main_thread().name]


def land(split, device, tools, receiver):
    """The device catches up, and the transfer ends."""
    assert split.d.counters()["kv_bytes_received"] == 0
    device.catch_up()
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    assert torch.equal(tools.blocks(split.target, [20, 21]), tools.blocks(split.source, [1, 2]))
    assert device.races == []


def test_kv_that_the_scheduler_restores_is_sent_after_that(make_split, device, tools):
    split = make_split(device=device)
    sender, receiver = begin(split, tools)
    device.watch(source=split.source.engine_planes[0])
    writes(device, device.schedule, split.source.engine_planes[0])
    split.send(sender, [1, 2], aux_index=0, total=2)
    land(split, device, tools, receiver)


def test_kv_that_an_earlier_forward_writes_is_sent_after_it(make_split, device, forward, tools):
    split = make_split(device=device)
    sender, receiver = begin(split, tools)
    device.watch(source=split.source.engine_planes[0])
    writes(device, forward, split.source.engine_planes[0])
    sender._early_send_wait_event = forward.record_event()
    split.send(sender, [1, 2], aux_index=0, total=2)
    land(split, device, tools, receiver)


def test_pages_whose_numbers_are_on_their_way_are_sent_once_these_are_here(make_split, device, tools):
    split = make_split(device=device)
    sender, receiver = begin(split, tools)
    assert sender.supports_host_tensor_indices
    numbers, copies = torch.zeros(2, dtype=torch.int32), device.stream("copy")
    device.watch(numbers=numbers)
    with device.on(copies):
        numbers.copy_(torch.tensor([1, 2]))
    sender.init(2, 0)
    sender.send(numbers, indices_event=copies.record_event())
    assert waits_of_the_scheduler(device) == []
    land(split, device, tools, receiver)


@pytest.mark.parametrize("by_layer", [False, True])
def test_sglang_reads_page_numbers_itself_on_a_cpu_and_by_layer(make_split, device, by_layer):
    def how(source):
        pool = SimpleNamespace()
        return {"by_layer": ByLayer(pool, source.device, source.layout.layers)} if by_layer else {}

    split = make_split(device=device if by_layer else None, how=how)
    assert not split.sender(ROOM).supports_host_tensor_indices


def test_pages_given_away_are_written_to_after_their_last_forward(make_split, device, tools):
    split = make_split(target_device=device)
    target = split.target.engine_planes[0]
    device.watch(target=target)
    writes(device, device.schedule, target)
    sender, receiver = begin(split, tools)
    split.send(sender, [1, 2], aux_index=0, total=2)
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    device.host_reads(target)
    assert device.races == []


def test_a_layer_is_ready_once_the_device_is_past_its_write(device, forward):
    plane, rest, layers = torch.zeros(1), torch.zeros(1), LayersWritten(device)
    device.watch(plane=plane, rest=rest)
    with device.on(forward):
        plane.add_(1)
        layers.mark(0)
        rest.add_(1)
    layers.mark_rest(forward)
    assert not layers.ready(0)
    assert not layers.ready(1)
    device.catch_up()
    assert layers.ready(0)
    device.host_reads(plane)
    assert layers.ready(1)
    device.host_reads(rest)
    assert device.races == []


def test_a_layer_is_sent_after_the_stream_that_writes_it(make_split, device, forward, tools):
    def how(source):
        pool = SimpleNamespace(set_kv_buffer=lambda layer, planes: [plane.add_(1) for plane in planes])
        pools.append(pool)
        return {
            "mode": TransferMode.BY_LAYER,
            "by_layer": ByLayer(pool, source.device, source.layout.layers),
        }

    pools = []
    split = make_split(device=device, how=how)
    (pool,), layers, planes = pools, split.source.layout.layers, split.source.engine_planes
    device.watch(first=planes[0], last=planes[-1])
    sender, receiver = begin(split, tools)
    slots = device.own(torch.arange(4, 12))
    with split.p.prefill.batch(forward):
        split.p.prefill.announce(ROOM, slots, 0)
        with device.on(forward):
            for layer in range(layers):
                pool.set_kv_buffer(SimpleNamespace(layer_id=layer), [planes[layer], planes[layers + layer]])
    assert waits_of_the_scheduler(device) == []
    sender.init(2, 0)
    sender.send(np.asarray([1, 2], np.int32))
    land(split, device, tools, receiver)
