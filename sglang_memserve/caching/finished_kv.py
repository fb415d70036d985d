"""KV of a request that has ended, as it is handed from the scheduler's thread to the offloader's."""

from collections.abc import Callable
from typing import NamedTuple

from mempool.device import DeviceEvent
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.caching.tree import HeldPages


class WriteBackTarget(NamedTuple):
    """The instance that an answer is sent back to. The answer begins at block `first`.

    `private`: the cookie that goes with it, the epoch of that instance's cache.
    """

    instance: str
    first: int
    private: bytes


class FinishedKV(NamedTuple):
    """KV of `tokens`, whole blocks, from block `first` on: the pages of `held`, readable after `written`.

    `target`: where the answer is sent back to; None for nowhere. `on_done` is called once the KV is published
    or dropped; it does not wait for the write-back.
    """

    tokens: TokenIds
    namespace: str
    first: int
    held: HeldPages
    written: DeviceEvent | None
    target: WriteBackTarget | None = None
    on_done: Callable[[], None] = lambda: None
