"""Pools that know each other, checked after each test."""

import itertools
import shutil
import tempfile
import threading

import pytest
import torch
import zmq
from small_blocks import DRAM, HBM, LAYOUT, PAGE

from mempool.address import Addresses
from mempool.config import MemPoolConfig
from mempool.pool import MemPool
from mempool.tiers.tier import device_buffers, dram_arena
from mempool.transports.registry import Transports


class Pool(MemPool):
    """A MemPool of 16 blocks a medium, and hands to fill and read its blocks with."""

    def __init__(self, name, *, stores=None, engine=None, on_received=None, transports=None, **settings):
        super().__init__(
            MemPoolConfig(instance=name, **settings),
            stores=stores or {HBM: device_buffers(LAYOUT, 16), DRAM: dram_arena(LAYOUT, 16)},
            engine=engine,
            on_received=on_received,
            transports=transports,
        )

    def stored(self, addresses):
        parts = [addresses] if isinstance(addresses, Addresses) else addresses
        rows = [torch.empty((len(part), LAYOUT.block_bytes), dtype=torch.uint8) for part in parts]
        for part, out in zip(parts, rows, strict=True):
            assert part.owner == self.local.tier(part.medium).owner
            self.local.tier(part.medium).store.gather(torch.from_numpy(part.blocks).long(), out)
        return torch.cat(rows)

    def filled(self, blocks, medium=HBM):
        """Active blocks with random bytes, and these bytes."""
        addresses = self.alloc_mem(blocks, medium)
        data = torch.randint(0, 256, (blocks, LAYOUT.block_bytes), dtype=torch.uint8)
        self.local.tier(medium).store.scatter(torch.from_numpy(addresses.blocks).long(), data)
        return addresses, data

    def published(self, tokens, medium=HBM):
        addresses, data = self.filled(len(tokens) // PAGE, medium)
        self.insert(tokens, addresses)
        return addresses, data

    def found(self, tokens):
        with self.match(tokens) as found:
            return self.stored(found.addresses) if found.blocks else torch.empty(0)

    def used(self, medium):
        """(free, active, historical)"""
        return self.counts(medium)[:3]

    def lacks_nothing(self, medium=DRAM):
        """Whether all blocks are free."""
        return self.used(medium) == (16, 0, 0)

    def check(self):
        self.local.index.check_integrity()
        for medium in self.local.tiers:
            free, active, historical, total = self.counts(medium)
            assert free + active + historical == total


class World:
    """Pools that know each other, of one transport."""

    def __init__(self):
        self.pools, self.transports, self.numbers = [], Transports(), itertools.count()
        # A socket's path is short.
        self.folder = tempfile.mkdtemp(prefix="mp")

    def url(self, scheme):
        number = next(self.numbers)
        return {
            "inproc": f"inproc://{number}",
            "stream": "stream://127.0.0.1:0",
            "tcp": "tcp://127.0.0.1:0",
            "ipc": f"ipc://{self.folder}/{number}",
        }[scheme]

    def pool(self, name, scheme="inproc", **how):
        urls = {"control_url": self.url(scheme), "data_url": self.url(scheme)}
        pool = Pool(name, transports=self.transports, **urls, **how)
        for other in self.pools:
            if pool.info.instance != other.info.instance:
                pool.introduce(other.info)
                other.introduce(pool.info)
        self.pools.append(pool)
        return pool

    def lonely(self, name, **how):
        """One that is to be closed by the test, with a transport of its own."""
        return Pool(name, **how)

    def pair(self, scheme="inproc", **how_b):
        return self.pool("a", scheme), self.pool("b", scheme, **how_b)

    def close(self):
        for pool in self.pools:
            pool.check()
            pool.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture
def deaf():
    """An endpoint where everything is taken and nothing answered."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    yield f"tcp://127.0.0.1:{port}"
    context.destroy(linger=0)


class SlowStore:
    """DRAM that takes nothing in before the test says so."""

    def __init__(self):
        self.arena = dram_arena(LAYOUT, 16)
        self.entered, self.open = threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.arena, name)

    def scatter(self, *arguments, **how):
        self.entered.set()
        assert self.open.wait(20)
        self.arena.scatter(*arguments, **how)


@pytest.fixture
def slow_pair(world):
    """a, and b with DRAM that takes nothing in yet, and that DRAM."""
    slow = SlowStore()
    a, b = world.pair(stores={DRAM: slow})
    return a, b, slow
