"""Layers that are sent while the next ones compute, against a pool that is written to layer by layer."""

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.disaggregation.base.conn import KVPoll

from mempool.flags import TransferMode
from sglang_memserve.transfer.by_layer import ByLayer

ROOM = 77


class Pool:
    """SGLang's pool as far as it matters here: what a layer computes is written to slots."""

    def __init__(self, buffers):
        self.planes = buffers.engine_planes
        self.layers = buffers.layout.layers

    def set_kv_buffer(self, layer, slots, k, v):
        self.planes[layer.layer_id][slots] = k
        self.planes[self.layers + layer.layer_id][slots] = v


@pytest.fixture
def by_layer(make_split):
    """A split whose pool tells what is written to it."""

    def how(source):
        pools.append(Pool(source))
        by_layer = ByLayer(pools[0], source.device, source.layout.layers)
        return {"mode": TransferMode.BY_LAYER, "by_layer": by_layer}

    pools = []
    split = make_split(how=how)
    split.pool = pools[0]
    return split


def slots_of(split, pages):
    page = split.source.layout.page_size
    return torch.cat([torch.arange(number * page, (number + 1) * page) for number in pages])


def compute(split, layer, pages):
    slots = slots_of(split, pages)
    k = torch.randn(len(slots), *split.source.engine_planes[0].shape[1:])
    split.pool.set_kv_buffer(SimpleNamespace(layer_id=layer), slots, k, -k)


def meet(split, tools, pages):
    sender, receiver = split.sender(ROOM), split.ask(ROOM, pages)
    tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
    return sender, receiver


def arrived(split):
    return split.d.counters()["kv_bytes_received"]


def end(split, tools, sender, receiver):
    tools.until(lambda: receiver.poll() == KVPoll.Success and sender.poll() == KVPoll.Success)
    receiver.clear()
    sender.clear()
    tools.until(lambda: not split.leftovers())


def test_a_layer_arrives_before_the_next_is_computed(by_layer, tools):
    split = by_layer
    sender, receiver = meet(split, tools, [20, 21, 22])
    layers, block = split.source.layout.layers, split.source.layout.block_bytes
    with split.p.prefill.batch(None):
        split.p.prefill.announce(ROOM, slots_of(split, [1, 2, 3]), 0)
        for layer in range(layers):
            tools.until(lambda layer=layer: arrived(split) == 3 * block * layer // layers)
            compute(split, layer, [1, 2, 3])
    split.send(sender, [1, 2, 3], aux_index=0, total=3)
    end(split, tools, sender, receiver)
    assert torch.equal(tools.blocks(split.target, [20, 21, 22]), tools.blocks(split.source, [1, 2, 3]))
    assert arrived(split) == 3 * block


def test_layers_that_no_kernel_named_are_sent_when_the_batch_is_over(by_layer, tools):
    split = by_layer
    sender, receiver = meet(split, tools, [20])
    with split.p.prefill.batch(None):
        split.p.prefill.announce(ROOM, slots_of(split, [1]), 0)
        assert arrived(split) == 0
    split.send(sender, [1], aux_index=0, total=1)
    end(split, tools, sender, receiver)
    assert torch.equal(tools.blocks(split.target, [20]), tools.blocks(split.source, [1]))


def test_pages_that_the_tree_has_replaced_are_sent_again(by_layer, tools):
    split = by_layer
    sender, receiver = meet(split, tools, [20, 21, 22, 23])
    with split.p.prefill.batch(None):
        split.p.prefill.announce(ROOM, slots_of(split, [1, 2, 3]), 0)
        for layer in range(split.source.layout.layers):
            compute(split, layer, [1, 2, 3])
    compute(split, 0, [1])
    split.send(sender, [9, 2, 3, 4], aux_index=0, total=4)
    end(split, tools, sender, receiver)
    assert torch.equal(tools.blocks(split.target, [20, 21, 22, 23]), tools.blocks(split.source, [9, 2, 3, 4]))


def test_a_chunk_is_announced_once_though_the_one_before_was_not_sent_yet(by_layer, tools):
    """As under overlap, without early sends."""
    split = by_layer
    sender, receiver = meet(split, tools, [20, 21, 22])
    for chunk, announced in (([1, 2], [1, 2]), ([3], [1, 2, 3])):
        with split.p.prefill.batch(None):
            split.p.prefill.announce(ROOM, slots_of(split, announced), 0)
            for layer in range(split.source.layout.layers):
                compute(split, layer, chunk)
    split.send(sender, [1, 2, 3], aux_index=0, total=3)
    end(split, tools, sender, receiver)
    assert torch.equal(tools.blocks(split.target, [20, 21, 22]), tools.blocks(split.source, [1, 2, 3]))
    assert arrived(split) == 3 * split.source.layout.block_bytes


def test_a_request_that_ends_in_its_batch_leaves_nothing(by_layer, tools):
    split = by_layer
    sender, receiver = meet(split, tools, [20])
    with split.p.prefill.batch(None):
        split.p.prefill.announce(ROOM, slots_of(split, [1]), 0)
        sender.abort()
    tools.until(lambda: receiver.poll() == KVPoll.Failed)
    receiver.clear()
    tools.until(lambda: not split.leftovers())
