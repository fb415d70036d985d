"""DRAM blocks: one piece of host memory, with a row for each aggregated block."""

import logging
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from mempool.device import Device, DeviceEvent, host_device
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout
from mempool.shared_memory import SharedRegion

logger = logging.getLogger(__name__)

# Below this size a copy to one place costs less than a frame of its own for each part.
_SMALLEST_VIEW_BYTES = 32 * 1024


class DramArena:
    """Blocks in host memory, one row each. It takes no part in their allocation.

    Calls for different rows may come from different threads. `device`: what copies to and from it; CUDA's by
    default, where there is one.

    `shared`: other processes of this host and user may read them in place, where the host has such memory.

    Attributes:
        layout: The layout of a block.
        num_blocks: How many rows there are. The number of a block is its row.
        rows: uint8 `[num_blocks, block_bytes]`, pinned where CUDA is available.
        regions: The shared memory that the rows lie in; None where they lie in another kind.
    """

    def __init__(
        self, layout: BlockLayout, num_blocks: int, device: Device | None = None, *, shared: bool = False
    ) -> None:
        self._device = device or host_device()
        self.layout = layout
        self.num_blocks = num_blocks
        size, row_bytes = num_blocks * layout.block_bytes, layout.block_bytes
        region = _shared(size) if shared else None
        self.regions = None if region is None else (region,)
        memory = (
            self._device.host_memory(size, row_bytes)
            if region is None
            else self._device.shared_memory(region, row_bytes)
        )
        self.rows = memory.view(num_blocks, -1)
        self._rows_a_copy = self._device.rows_a_copy(row_bytes) or num_blocks
        self._rows: npt.NDArray[np.uint8] = self.rows.numpy()

    @property
    def wants_pinned(self) -> bool:
        return False

    def views(self, pages: torch.Tensor, planes: range | None = None) -> list[memoryview] | None:
        """The blocks in place; neighbouring rows are one view. None: small scattered parts."""
        columns = self._columns(planes)
        runs = self._runs(pages, columns)
        size = columns.stop - columns.start
        if len(runs) > 1 and len(pages) * size < len(runs) * _SMALLEST_VIEW_BYTES:
            return None
        return [self._rows[start:stop, columns].reshape(-1).data for start, stop in runs]

    def parts(self, pages: torch.Tensor) -> list[torch.Tensor]:
        """The blocks in place, uint8 `[n, block_bytes]` each, for a device to copy. Neighbouring rows are one
        part, as far as it copies them at once.
        """
        size, parts = self._rows_a_copy, []
        for start, stop in self._runs(pages, self._columns(None)):
            edges = [start, *range((start // size + 1) * size, stop, size), stop]
            parts += [self.rows[first:end] for first, end in pairwise(edges)]
        return parts

    def gather(self, pages: torch.Tensor, out: torch.Tensor, planes: range | None = None) -> None:
        """Copies blocks out. `pages`: int64 `[n]`; `out`: uint8 `[n, layout.row_bytes(planes)]`."""
        columns, at, target = self._columns(planes), 0, out.numpy()
        self._check(pages, target, columns)
        for start, stop in self._runs(pages, columns):
            target[at : at + stop - start] = self._rows[start:stop, columns]
            at += stop - start

    def scatter(
        self,
        pages: torch.Tensor,
        blocks: torch.Tensor,
        after: DeviceEvent | None = None,
        planes: range | None = None,
    ) -> None:
        """Copies blocks in: the inverse of `gather`. Waits for `after` on the host."""
        columns, at, source = self._columns(planes), 0, blocks.numpy()
        self._check(pages, source, columns)
        if after is not None:
            after.synchronize()
        for start, stop in self._runs(pages, columns):
            self._rows[start:stop, columns] = source[at : at + stop - start]
            at += stop - start

    def host_bytes(self, count: int) -> torch.Tensor:
        """uint8 `[count]`, as the rows are."""
        return self._device.host_memory(count)

    def _columns(self, planes: range | None) -> slice:
        if planes is None or len(planes) == len(self.layout.plane_bytes):
            return slice(0, self.layout.block_bytes)
        start = self.layout.row_bytes(range(planes.start))
        return slice(start, start + self.layout.row_bytes(planes))

    def _runs(self, pages: torch.Tensor, columns: slice) -> list[tuple[int, int]]:
        """Rows `[start, stop)` that lie next to each other as the pages name them; parts of rows never do."""
        numbers = pages.tolist()
        if not numbers:
            return []
        if not 0 <= min(numbers) <= max(numbers) < self.num_blocks:
            raise MemPoolError(f"block {min(numbers)} or {max(numbers)} is not in [0, {self.num_blocks})")
        whole = columns.stop - columns.start == self.layout.block_bytes
        runs: list[tuple[int, int]] = []
        start = stop = numbers[0]
        for number in numbers:
            if number != stop or (not whole and stop > start):
                runs.append((start, stop))
                start = number
            stop = number + 1
        return [*runs, (start, stop)]

    def _check(self, pages: torch.Tensor, blocks: npt.NDArray[np.uint8], columns: slice) -> None:
        shape = (len(pages), columns.stop - columns.start)
        if blocks.shape != shape:
            raise MemPoolError(f"{len(pages)} blocks need {list(shape)} bytes, got {list(blocks.shape)}")


def _shared(size: int) -> SharedRegion | None:
    try:
        return SharedRegion(size)
    except OSError as error:
        logger.warning("%d bytes of DRAM cannot be shared with this host's other instances: %s", size, error)
        return None
