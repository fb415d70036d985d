"""The planes of an engine's KV pool, as rows of bytes."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from mempool.errors import MemPoolError

if TYPE_CHECKING:
    from mempool.plane_kernels import PlaneKernels

logger = logging.getLogger(__name__)


class Planes:
    """One tensor for each plane of a block, each a row for a page; views, it owns no memory.

    On CUDA a call is one launch, where there is Triton; otherwise it goes plane by plane. Its calls take
    `index`, the pages (int64 `[n]`), on the device of the planes, and `blocks`, uint8
    `[n, bytes of these planes]`, there too. `planes` says which ones.
    """

    def __init__(self, planes: Sequence[torch.Tensor], row_bytes: Sequence[int]) -> None:
        self.device = planes[0].device
        # The widest element that divides every row: CPU copies of uint8 rows are several times slower.
        self._dtype = torch.int64 if all(size % 8 == 0 for size in row_bytes) else torch.uint8
        self._rows = [self._as_rows(plane, size) for plane, size in zip(planes, row_bytes, strict=True)]
        self.num_pages: int = self._rows[0].shape[0]
        if any(rows.shape[0] != self.num_pages for rows in self._rows):
            raise MemPoolError(
                f"planes of {sorted({rows.shape[0] for rows in self._rows})} pages in one pool"
            )
        self._kernels = self._new_kernels(row_bytes)

    def gather(self, index: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        """Copies rows out."""
        if self._kernels is not None:
            self._kernels.gather(index, blocks, planes)
            return
        target = blocks.view(self._dtype)
        for rows, part in self._parts(planes):
            torch.index_select(rows, 0, index, out=target[:, part])

    def scatter(self, index: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        """Copies rows in."""
        if self._kernels is not None:
            self._kernels.scatter(index, blocks, planes)
            return
        source = blocks.view(self._dtype)
        for rows, part in self._parts(planes):
            rows.index_copy_(0, index, source[:, part])

    def _new_kernels(self, row_bytes: Sequence[int]) -> "PlaneKernels | None":
        if self.device.type != "cuda":
            return None
        try:
            from mempool.plane_kernels import PlaneKernels
        except ImportError as error:
            logger.warning("KV is copied plane by plane, which is slow: %s", error)
            return None
        return PlaneKernels(self._rows, row_bytes)

    def _as_rows(self, plane: torch.Tensor, row_bytes: int) -> torch.Tensor:
        if plane.device != self.device:
            raise MemPoolError(f"plane on {plane.device}, the others on {self.device}")
        if not plane.is_contiguous() or plane.nbytes % row_bytes:
            raise MemPoolError(
                f"plane of shape {tuple(plane.shape)} is not a contiguous row of pages of {row_bytes} bytes"
            )
        return plane.view(-1).view(torch.uint8).view(-1, row_bytes).view(self._dtype)

    def _parts(self, planes: range) -> Iterator[tuple[torch.Tensor, slice]]:
        """Each plane, and where its rows are among the columns of a block of these planes."""
        start = 0
        for rows in self._rows[planes.start : planes.stop]:
            stop = start + rows.shape[1]
            yield rows, slice(start, stop)
            start = stop
