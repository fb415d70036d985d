"""Our block channel between two processes: either end."""

import threading
import time
from typing import Any, NamedTuple

import torch

from benchmark.mempool.pages import RECEIVER_SEED, SENDER_SEED, scattered
from mempool.arena import DramArena
from mempool.errors import TransferError
from mempool.flags import TransferMode
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from mempool.store import BlockSource
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender

_TRANSFER_SECONDS = 60.0


class Ticket(NamedTuple):
    """A list in JSON. `key`: in hexadecimal digits; None where blocks go in clear."""

    number: int
    key: str | None


class Ending:
    """When a transfer ended, as seen by its sender."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._error: TransferError | None = None
        self.at = 0.0

    def __call__(self, error: TransferError | None) -> None:
        self.at, self._error = time.perf_counter(), error
        self._ended.set()

    @property
    def over(self) -> bool:
        return self._ended.is_set()

    def wait(self) -> float:
        """The moment of it. Raises what the transfer failed with, TimeoutError."""
        if not self._ended.wait(_TRANSFER_SECONDS):
            raise TimeoutError(f"a transfer took longer than {_TRANSFER_SECONDS:g} s")
        if self._error is not None:
            raise self._error
        return self.at


class ChannelEnd:
    """An arena of `blocks`, and with `paged` an engine's buffers of as many, a plane each, beside it.

    `piece_bytes`: what a message carries at most. `shared`: whether the arena lies in shared memory.
    """

    def __init__(
        self,
        layout: dict[str, Any],
        blocks: int,
        paged: bool = False,
        piece_bytes: int = 2 << 20,
        shared: bool = False,
    ) -> None:
        torch.set_num_threads(1)
        shape = BlockLayout(**layout)
        self._arena = DramArena(shape, blocks, shared=shared)
        self._arena.rows.fill_(0)
        self._stores: dict[str, BlockSource] = {"arena": self._arena}
        self._planes = [torch.zeros((blocks, size), dtype=torch.uint8) for size in shape.plane_bytes if paged]
        if paged:
            self._stores["paged"] = PagedBuffers(self._planes, shape)
        self._receiver: BlockReceiver | None = None
        self._sender = BlockSender(piece_bytes=piece_bytes)
        self._flow = Ending()

    def listen(self, scheme: str = "stream", encrypt: bool = False) -> str:
        url = "shm://" if scheme == "shm" else f"{scheme}://127.0.0.1:0"
        self._receiver = BlockReceiver(url, encrypt=encrypt)
        return self._receiver.endpoint

    def cpu_seconds(self) -> float:
        """What this process has used so far."""
        return time.process_time()

    def expect(self, blocks: int, transfers: int = 1) -> list[Ticket]:
        assert self._receiver is not None
        pages = torch.from_numpy(scattered(blocks, self._arena.num_blocks, RECEIVER_SEED))
        tickets = []
        for _ in range(transfers):
            key = self._receiver.new_key()
            number = self._receiver.expect(self._arena, pages, lambda _: None, lambda _: None, key=key)
            tickets.append(Ticket(number, None if key is None else key.hex()))
        return tickets

    def withdraw(self, tickets: list[list[Any]]) -> None:
        assert self._receiver is not None
        for number, _ in tickets:
            self._receiver.withdraw(number)

    def holds(self, stamp: int) -> bool:
        """Whether every byte of the arena is `stamp`."""
        return bool((self._arena.rows == stamp).all())

    def fill(self, stamp: int) -> None:
        for memory in (self._arena.rows, *self._planes):
            memory.fill_(stamp)

    def send(
        self,
        endpoint: str,
        ticket: list[Any],
        blocks: int,
        mode: str = TransferMode.AGGREGATED,
        store: str = "arena",
    ) -> dict[str, float]:
        """Seconds until all was acknowledged, and messages of blocks."""
        messages, ending = self._sender.messages_sent, Ending()
        began = self._start(endpoint, ticket, blocks, ending, mode, store)
        seconds = ending.wait() - began
        return {"seconds": seconds, "messages": self._sender.messages_sent - messages}

    def begin_flow(self, endpoint: str, ticket: list[Any], blocks: int) -> None:
        self._flow = Ending()
        self._start(endpoint, ticket, blocks, self._flow)

    def flow_is_over(self) -> bool:
        return self._flow.over

    def end_flow(self) -> None:
        """Waits for it. Raises what it failed with."""
        self._flow.wait()

    def send_each(self, endpoint: str, tickets: list[list[Any]]) -> list[float]:
        """A transfer of one block for each ticket, one after the other; the seconds of each."""
        return [self.send(endpoint, ticket, 1)["seconds"] for ticket in tickets]

    def _start(
        self,
        endpoint: str,
        ticket: list[Any],
        blocks: int,
        ending: Ending,
        mode: str = TransferMode.AGGREGATED,
        store: str = "arena",
    ) -> float:
        pages = torch.from_numpy(scattered(blocks, self._arena.num_blocks, SENDER_SEED))
        number, key = Ticket(*ticket)
        began = time.perf_counter()
        transfer = self._sender.open(
            self._stores[store],
            endpoint,
            number,
            ending,
            mode=TransferMode(mode),
            key=None if key is None else bytes.fromhex(key),
        )
        transfer.send(pages, 0)
        transfer.finish(blocks)
        return began
