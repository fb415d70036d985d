"""Several stores of one layout as one, so that a transfer may read from HBM and DRAM alike."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from mempool.address import Addresses, Medium
from mempool.shared_memory import SharedRegion
from mempool.tiers.tier import Tier


class JoinedStores:
    """Block b of the n-th tier has the number b plus the sizes of the tiers before it. Read-only."""

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self._stores = [tier.store for tier in tiers]
        sizes = [tier.allocator.total for tier in tiers]
        self._starts = np.cumsum([0, *sizes])
        self._first = {tier.medium: int(start) for tier, start in zip(tiers, self._starts, strict=False)}
        self.layout = tiers[0].store.layout

    def pages(self, addresses: Sequence[Addresses]) -> torch.Tensor:
        """int64 `[n]`: the numbers of these blocks here, in order."""
        numbers = [part.blocks.astype(np.int64) + self._start(part.medium) for part in addresses]
        return torch.from_numpy(np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64))

    @property
    def regions(self) -> list[SharedRegion] | None:
        of_each = [store.regions for store in self._stores]
        if any(regions is None for regions in of_each):
            return None
        return [region for regions in of_each if regions is not None for region in regions]

    def views(self, pages: torch.Tensor, planes: range | None = None) -> list[memoryview] | None:
        found: list[memoryview] = []
        for number, part, _ in self._parts(pages):
            views = self._stores[number].views(part, planes)
            if views is None:
                return None
            found += views
        return found

    def gather(self, pages: torch.Tensor, out: torch.Tensor, planes: range | None = None) -> None:
        for number, part, place in self._parts(pages):
            self._stores[number].gather(part, out[place : place + len(part)], planes)

    def host_bytes(self, count: int) -> torch.Tensor:
        return self._stores[0].host_bytes(count)

    def _start(self, medium: Medium) -> int:
        return self._first[medium]

    def _parts(self, pages: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, int]]:
        """Store, its own block numbers, and the place of the first of them in `pages`."""
        numbers = pages.numpy()
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(numbers)]
        for first, stop in pairwise(edges):
            if first < stop:
                owner = int(owners[first])
                yield owner, pages[first:stop] - int(self._starts[owner]), first
