"""The planes of an engine's KV pool, as rows of bytes."""

from collections.abc import Iterator, Sequence

import torch

from mempool.errors import MemPoolError


class Planes:
    """One tensor for each plane of a block, each a row for a page; views, it owns no memory.

    Its calls take `index`, the pages (int64 `[n]`), on the device of the planes, and `blocks`, uint8
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

    def gather(self, index: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        """Copies rows out."""
        target = blocks.view(self._dtype)
        for rows, part in self._parts(planes):
            torch.index_select(rows, 0, index, out=target[:, part])

    def scatter(self, index: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        """Copies rows in."""
        source = blocks.view(self._dtype)
        for rows, part in self._parts(planes):
            rows.index_copy_(0, index, source[:, part])

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
