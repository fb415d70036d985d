"""Blocks that are held for other instances, under leases. Imports no torch."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from mempool.address import Medium
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import Caller


class _Lot:
    """Blocks that came together. `used`: when their holder last named any of them."""

    __slots__ = ("blocks", "caller", "medium", "used")

    def __init__(self, caller: Caller, medium: Medium, blocks: set[int], used: float) -> None:
        self.caller = caller
        self.medium = medium
        self.blocks = blocks
        self.used = used


class HeldBlocks:
    """A lease ends when its blocks were not used for as long as the quota says. For the pool's lock."""

    def __init__(self, ledger: PeerLedger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        # The one that was used longest ago comes first.
        self._lots: dict[_Lot, None] = {}
        self._lot_of: defaultdict[Medium, dict[int, _Lot]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._lot_of.values()))

    def add(self, caller: Caller, medium: Medium, blocks: Iterable[int]) -> None:
        lot = _Lot(caller, medium, set(blocks), self._clock())
        if lot.blocks:
            self._lots[lot] = None
            self._lot_of[medium].update(dict.fromkeys(lot.blocks, lot))
            self._ledger.add_blocks(caller.instance, medium, len(lot.blocks))

    def are_held(self, caller: Caller, medium: Medium, blocks: Iterable[int]) -> bool:
        """Whether all of them are held for that caller."""
        lots = self._lot_of[medium]
        return all(block in lots and lots[block].caller == caller for block in blocks)

    def remove(self, medium: Medium, blocks: Iterable[int]) -> None:
        """Held blocks, which are held no more. What is left of their lots was used now."""
        lots = self._lot_of[medium]
        touched: dict[_Lot, None] = {}
        for block in blocks:
            lot = lots.pop(block)
            lot.blocks.discard(block)
            self._ledger.add_blocks(lot.caller.instance, medium, -1)
            touched[lot] = None
        for lot in touched:
            del self._lots[lot]
            if lot.blocks:
                lot.used = self._clock()
                self._lots[lot] = None

    def take_overdue(self) -> list[tuple[Medium, list[int]]]:
        """The blocks whose lease has ended. They are held no more."""
        limit = self._clock() - self._ledger.quota.lease_s
        overdue: list[_Lot] = []
        for lot in self._lots:
            if lot.used >= limit:
                break
            overdue.append(lot)
        return self._take(overdue)

    def take_of(self, is_dead: Callable[[Caller], bool]) -> list[tuple[Medium, list[int]]]:
        """The blocks of these callers. They are held no more."""
        return self._take([lot for lot in self._lots if is_dead(lot.caller)])

    def _take(self, lots: list[_Lot]) -> list[tuple[Medium, list[int]]]:
        taken = [(lot.medium, sorted(lot.blocks)) for lot in lots]
        for medium, blocks in taken:
            self.remove(medium, blocks)
        return taken
