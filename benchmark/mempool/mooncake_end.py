"""Mooncake's TransferEngine over TCP between two processes: either end. Its own defaults throughout."""

import importlib
import time

import numpy as np

from benchmark.mempool.pages import RECEIVER_SEED, SENDER_SEED, scattered

HOST = "127.0.0.1"
ENV = {"MC_FORCE_TCP": "1", "MOONCAKE_PROTOCOL": "tcp"}
# Its queue for a peer takes as many transfers, and fails those beyond instead of waiting.
_BATCH = 1024


class MooncakeError(RuntimeError):
    pass


class MooncakeEnd:
    """Registered memory of `blocks` blocks. Raises MooncakeError where its engine does not start."""

    def __init__(self, block_bytes: int, blocks: int) -> None:
        # Not in .venv: only processes of this peer have it on their path.
        self._engine = importlib.import_module("mooncake.engine").TransferEngine()
        self._rows = np.zeros((blocks, block_bytes), dtype=np.uint8)
        _require(self._engine.initialize(HOST, "P2PHANDSHAKE", "tcp", ""), "initialize")
        _require(self._engine.register_memory(self._rows.ctypes.data, self._rows.nbytes), "register_memory")

    def listen(self) -> tuple[str, int]:
        """Where senders find it, and where its memory begins."""
        return f"{HOST}:{self._engine.get_rpc_port()}", self._rows.ctypes.data

    def send(self, name: str, address: int, blocks: int) -> float:
        """Seconds until its engine calls all transfers complete. Raises MooncakeError."""
        size = self._rows.shape[1]
        source = self._rows.ctypes.data + size * scattered(blocks, len(self._rows), SENDER_SEED)
        target = address + size * scattered(blocks, len(self._rows), RECEIVER_SEED)
        batches = [
            (source[at : at + _BATCH].tolist(), target[at : at + _BATCH].tolist())
            for at in range(0, blocks, _BATCH)
        ]
        began = time.perf_counter()
        for ours, theirs in batches:
            code = self._engine.batch_transfer_sync_write(name, ours, theirs, [size] * len(ours))
            _require(code, f"batch_transfer_sync_write of {len(ours)} blocks of {size} bytes")
        return time.perf_counter() - began

    def holds(self, stamp: int) -> bool:
        return bool((self._rows == stamp).all())

    def fill(self, stamp: int) -> None:
        self._rows.fill(stamp)


def _require(code: int, what: str) -> None:
    if code != 0:
        raise MooncakeError(f"{what} returned {code}")
