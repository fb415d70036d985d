"""torch.distributed between two processes, a group of two ranks: either end. NCCL on two GPUs, else gloo."""

import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from benchmark.mempool.pages import RECEIVER_SEED, SENDER_SEED, scattered

HOST = "127.0.0.1"
_RECEIVER, _SENDER = 0, 1
_TIMEOUT = timedelta(seconds=60)
# Messages on their way at once: enough to hide the wait for each.
_WINDOW = 32


class DistributedError(RuntimeError):
    """There is no torch.distributed here, or no backend of it that carries blocks."""


class DistributedEnd:
    """Memory of `blocks` blocks, on this rank's GPU under NCCL; each block is a message of its own.

    Raises DistributedError.
    """

    def __init__(self, block_bytes: int, blocks: int) -> None:
        torch.set_num_threads(1)
        self.name = _backend()
        self._shape = (blocks, block_bytes)
        self._rows = torch.zeros(0, dtype=torch.uint8)
        self._store: dist.TCPStore | None = None
        self._rank = _SENDER

    def backend(self) -> str:
        return self.name

    def listen(self) -> int:
        """The port where the two ranks meet. This end is the receiver."""
        self._rank = _RECEIVER
        self._store = dist.TCPStore(HOST, 0, 2, is_master=True, timeout=_TIMEOUT, wait_for_workers=False)
        return int(self._store.port)

    def join(self, port: int) -> None:
        """Returns when the other end has joined as well."""
        store = self._store or dist.TCPStore(HOST, port, 2, is_master=False, timeout=_TIMEOUT)
        device = torch.device("cuda", self._rank) if self.name == "nccl" else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(self.name, store=store, rank=self._rank, world_size=2, timeout=_TIMEOUT)
        self._rows = torch.zeros(self._shape, dtype=torch.uint8, device=device)

    def receive(self, blocks: int) -> None:
        """Acknowledges when all has landed."""
        _run(dist.irecv(row, _SENDER) for row in self._pages(blocks, RECEIVER_SEED))
        dist.send(self._word(), _SENDER)

    def send(self, blocks: int) -> float:
        """Seconds until the acknowledgement."""
        rows = list(self._pages(blocks, SENDER_SEED))
        began = time.perf_counter()
        _run(dist.isend(row, _RECEIVER) for row in rows)
        word = self._word()
        dist.recv(word, _RECEIVER)
        # Under NCCL a receive is queued on a stream; its value is the wait for it.
        word.item()
        return time.perf_counter() - began

    def holds(self, stamp: int) -> bool:
        return bool((self._rows == stamp).all())

    def fill(self, stamp: int) -> None:
        self._rows.fill_(stamp)

    def _word(self) -> torch.Tensor:
        return torch.ones(1, dtype=torch.uint8, device=self._rows.device)

    def _pages(self, blocks: int, seed: int) -> Iterator[torch.Tensor]:
        return (self._rows[page] for page in scattered(blocks, len(self._rows), seed).tolist())


def _backend() -> str:
    if not dist.is_available():
        raise DistributedError("this torch is built without torch.distributed")
    if torch.cuda.device_count() > 1 and dist.is_nccl_available():
        return "nccl"
    if not dist.is_gloo_available():
        raise DistributedError("this torch is built without gloo, and there are no two GPUs for NCCL")
    return "gloo"


def _run(works: "Iterator[dist.Work | None]") -> None:
    """Starts each message when the one `_WINDOW` before it has ended."""
    under_way: deque[dist.Work] = deque()
    for work in works:
        if work is not None:
            under_way.append(work)
        if len(under_way) >= _WINDOW:
            under_way.popleft().wait()
    while under_way:
        under_way.popleft().wait()
