"""All-reduce between the ranks of a tensor-parallel instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.cost.fitting import FitError
from router.cost.gemm import Amount
from router.cost.streams import MemoryBound, StreamRow


class CollectiveRow(NamedTuple):
    """A measurement: an all-reduce of `bytes` on each of `ranks` took `seconds`."""

    bytes: int
    ranks: int
    seconds: float


class AllReduce(msgspec.Struct, frozen=True, kw_only=True):
    """A ring: each of r ranks sends 2(r - 1)/r of the bytes. The time of a call is fitted beside that.

    Each number of ranks has a fit of its own, since more ranks may use another kind of link. For a number
    that was not measured, the bandwidth of the nearest one counts, and the time of a call grows with the
    steps of the ring.
    """

    links: dict[int, MemoryBound]

    def seconds(self, amount: Amount, ranks: int) -> Amount | float:
        """`amount`: bytes, or an array of them. 0 for one rank."""
        if ranks == 1:
            return amount * 0.0
        nearest = min(self.links, key=lambda known: (abs(known - ranks), known))
        link = self.links[nearest]
        call = link.call_s * (ranks - 1) / (nearest - 1)
        return call + 2 * (ranks - 1) / ranks * amount * link.byte_s

    @classmethod
    def fit(cls, rows: Sequence[CollectiveRow]) -> AllReduce:
        """Raises FitError, for rows of one rank too."""
        if not rows or min(row.ranks for row in rows) < 2:
            raise FitError("an all-reduce is measured between 2 ranks or more")
        links = {}
        for ranks in sorted({row.ranks for row in rows}):
            sent = 2 * (ranks - 1) / ranks
            sends = [StreamRow(int(sent * row.bytes), row.seconds) for row in rows if row.ranks == ranks]
            links[ranks] = MemoryBound.fit(sends)
        return cls(links=links)
