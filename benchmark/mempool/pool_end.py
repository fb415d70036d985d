"""An instance of the MemPool that others fetch a prefix from, or that fetches it."""

import time
from typing import Any

import msgspec
import numpy as np
import torch

from mempool.address import Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.index.keys import Tokens
from mempool.layout import BlockLayout
from mempool.membership.messages import InstanceInfo
from mempool.pool import MemPool
from mempool.sources import FetchSource
from mempool.transports.registry import Transports

_FETCH_SECONDS = 60.0


class PoolEnd:
    """DRAM of `blocks`. `max_bandwidth`: the bytes a second that it sends to each other instance at most."""

    def __init__(self, instance: str, layout: dict[str, Any], blocks: int, max_bandwidth: int = 0) -> None:
        torch.set_num_threads(1)
        self._layout = BlockLayout(**layout)
        self._arena = DramArena(self._layout, blocks)
        self._arena.rows.fill_(0)
        self._pool = MemPool(
            MemPoolConfig(instance=instance),
            stores={Medium.DRAM: self._arena},
            transports=Transports(max_bandwidth),
        )

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self._pool.info)
        return found

    def introduce(self, info: dict[str, Any]) -> None:
        self._pool.introduce(msgspec.convert(info, InstanceInfo))

    def publish(self, blocks: int, stamp: int) -> None:
        """The KV of a prompt, each byte of which is `stamp`, in place of what is published now."""
        self._pool.clear()
        own = self._pool.alloc_mem(blocks, Medium.DRAM)
        self._arena.rows[torch.from_numpy(own.blocks).long()] = stamp
        self._pool.insert(self._tokens(blocks), own)

    def fetch(self, sources: list[str], blocks: int, stamp: int) -> float:
        """Seconds until all is here. Raises MemPoolError; RuntimeError for other bytes than `stamp`."""
        self._pool.clear()
        named, tokens = [FetchSource(source, blocks) for source in sources], self._tokens(blocks)
        began = time.perf_counter()
        came = self._pool.fetch(named, tokens, timeout_s=_FETCH_SECONDS)
        seconds = time.perf_counter() - began
        with self._pool.match(tokens) as found:
            rows = np.concatenate([part.blocks for part in found.addresses])
            if came != blocks or not bool((self._arena.rows[torch.from_numpy(rows).long()] == stamp).all()):
                raise RuntimeError(f"{came} blocks of {blocks} came, or other bytes")
        return seconds

    def _tokens(self, blocks: int) -> Tokens:
        return np.arange(blocks * self._layout.page_size, dtype=np.int32)
