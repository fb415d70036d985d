"""An instance in a process of its own, driven by stdin: a line of JSON each way.

`pool_process.py INSTANCE REGISTRY`
"""

import json
import os
import signal
import sys
import threading
import time

import numpy as np
import torch

from mempool.address import Addresses, Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout
from mempool.pool import MemPool
from mempool.sources import FetchSource

MIB = 1 << 20
# 24 blocks of 8 MiB: long enough under way to be met in the middle.
BLOCKS = 24
LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=16, layers=8, heads=1, k_plane_bytes=MIB // 2, v_plane_bytes=MIB // 2
)


NOW = ("incoming", "outgoing", "fetching", "held_blocks", "leases")


def tokens(blocks):
    return np.arange(blocks * LAYOUT.page_size)


class Instance:
    def __init__(self, name, registry):
        self.arena = DramArena(LAYOUT, BLOCKS)
        self.pool = MemPool(
            MemPoolConfig(instance=name, registries=[registry]), stores={Medium.DRAM: self.arena}
        )
        self.future = None
        self.mine = None

    def fill(self, byte):
        """All blocks, each with its own bytes."""
        self.mine = self.pool.alloc_mem(BLOCKS, Medium.DRAM)
        for n, block in enumerate(self.mine.blocks.tolist()):
            self.arena.rows[block].fill_((byte + n) % 256)

    def publish(self, blocks):
        """The KV of `tokens(blocks)`: block n has the byte n throughout."""
        own = self.pool.alloc_mem(blocks, Medium.DRAM)
        for n, block in enumerate(own.blocks.tolist()):
            self.arena.rows[block].fill_(n)
        self.pool.insert(tokens(blocks), own)

    def fetch(self, names, blocks, seconds):
        sources = [FetchSource(name) for name in names]
        self.future = self.pool.start.fetch(sources, tokens(blocks), timeout_s=seconds)

    def fetched(self):
        try:
            return self.future.result(120)
        except MemPoolError as error:
            return type(error).__name__

    def published(self, blocks):
        """The byte of each published block of the tokens; None where it has others too."""
        with self.pool.match(tokens(blocks)) as found:
            rows = [self.arena.rows[block] for part in found.addresses for block in part.blocks.tolist()]
            return [int(row[0]) if bool((row == row[0]).all()) else None for row in rows]

    def clear(self):
        self.pool.clear()

    def drop(self):
        if self.mine is not None and self.mine.owner.incarnation == self.pool.info.incarnation:
            self.pool.free_mem(self.mine)
        self.mine = None

    def send(self, to, blocks, seconds):
        self.future = self.pool.start.transfer(to, self.mine[:blocks], timeout_s=seconds)

    def alloc_at(self, to, blocks, seconds):
        self.future = self.pool.start.alloc_mem(blocks, Medium.DRAM, to, timeout_s=seconds)

    def result(self):
        """How it ended, and that the future itself says so; what was got is given back."""
        try:
            got = self.future.result(120)
        except MemPoolError as error:
            return type(error).__name__
        self.pool.free_mem(got if isinstance(got, Addresses) else got.addresses)
        return "done"

    def carry(self, to, blocks):
        self.send(to, blocks, 60.0)
        return self.result()

    def signal_when(self, counter, number):
        """Sends itself a signal in the middle of a transfer."""
        before = self.pool.counters()[counter]

        def watch():
            while self.pool.counters()[counter] <= before:
                time.sleep(0.0002)
            os.kill(os.getpid(), number)

        threading.Thread(target=watch, daemon=True).start()

    def state(self):
        counters = self.pool.counters()
        now = {name: counters[name] for name in NOW}
        return {**now, "counts": self.pool.counts(Medium.DRAM), "fds": len(os.listdir("/proc/self/fd"))}

    def knows(self, name):
        """The incarnation of another instance, 0 where it is not there or silent."""
        try:
            return self.pool._peers.get(name).incarnation
        except MemPoolError:
            return 0

    def remembers(self, name):
        """Whether it is a member, silent or not."""
        return name in self.pool._peers._members

    def incarnation(self):
        return self.pool.info.incarnation


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    instance = Instance(*sys.argv[1:])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        call, *arguments = json.loads(line)
        print(json.dumps(getattr(instance, call)(*arguments)), flush=True)
    instance.pool.close()


if __name__ == "__main__":
    main()
