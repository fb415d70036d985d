"""An instance whose engine allocates and publishes in HBM by itself: others' blocks come to it in DRAM."""

import threading

import numpy as np
import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, PAGE

from mempool.engine import EngineHbm
from mempool.errors import MemPoolError, OutOfBlocks
from mempool.flags import TransferFlags
from mempool.tiers.tier import device_buffers, dram_arena


class Engine:
    def __init__(self):
        self.received, self.came = [], threading.Event()

    def __call__(self, received):
        self.received.append(received)
        self.came.set()


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def pair(world, engine):
    a = world.pool("a")
    b = world.pool("b", stores={DRAM: dram_arena(LAYOUT, 16)}, engine=EngineHbm(on_received=engine))
    return a, b


def test_the_engine_gets_the_last_blocks_of_the_tokens(pair, engine):
    a, b = pair
    own, data = a.filled(2)
    tokens = np.arange(5 * PAGE)
    landed = a.transfer_with_insert(
        "b", tokens, own, flags=TransferFlags(medium=HBM), private=b"why", namespace="salt"
    )
    assert engine.came.wait(10)
    (received,) = engine.received
    assert (received.instance, received.private, received.namespace) == ("a", b"why", "salt")
    assert received.tokens.tolist() == tokens.tolist()
    assert not received.published
    assert torch.equal(b.stored(received.addresses), data)
    assert len(landed.addresses) == landed.present == 0
    assert b.match(tokens, namespace="salt", lease_s=None).blocks == 0
    assert b.used(DRAM) == (14, 2, 0)
    b.free_mem(received.addresses)
    assert b.used(DRAM) == (16, 0, 0)


def test_its_dram_is_the_pools_as_ever(pair, engine):
    a, b = pair
    own, data = a.filled(3)
    a.transfer_with_insert("b", np.arange(3 * PAGE), own)
    assert torch.equal(b.found(np.arange(3 * PAGE)), data)
    assert not engine.received


def test_what_finds_no_staging_is_refused_before_a_byte_is_sent(pair, engine):
    a, b = pair
    held = b.alloc_mem(15, DRAM)
    own, _ = a.filled(2)
    with pytest.raises(OutOfBlocks):
        a.transfer_with_insert("b", np.arange(2 * PAGE), own, flags=TransferFlags(medium=HBM))
    with pytest.raises(OutOfBlocks):
        a.alloc_mem(1, HBM, "b")
    assert not engine.received
    b.free_mem(held)


def test_an_engine_that_owns_its_hbm_gives_no_store_of_it(world, engine):
    with pytest.raises(MemPoolError, match="DRAM store"):
        world.lonely("c", stores={HBM: device_buffers(LAYOUT, 4)}, engine=EngineHbm(on_received=engine))
