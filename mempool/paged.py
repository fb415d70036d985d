"""An engine's paged KV buffers, read and written as aggregated blocks."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from mempool.errors import MemPoolError
from mempool.layout import BlockLayout


class PagedBuffers:
    """Views over an engine's K and V buffers; owns no memory and takes no part in its allocation.

    `planes`: one tensor for each plane of the block, in block order, whose first dimension counts token
    slots and is a multiple of the page size; contiguous, any dtype, all on one device.

    Not thread-safe: `gather` and `scatter` of one object belong to one thread. On CUDA both run on a
    stream of their own and return when their bytes have landed.
    """

    def __init__(self, planes: Sequence[torch.Tensor], layout: BlockLayout) -> None:
        if len(planes) != len(layout.plane_bytes):
            raise MemPoolError(f"{len(planes)} planes given, the layout has {len(layout.plane_bytes)}")
        self.layout = layout
        self.device = planes[0].device
        # The widest element that divides every row: CPU copies of uint8 rows are several times slower.
        self._dtype = torch.int64 if all(size % 8 == 0 for size in layout.plane_bytes) else torch.uint8
        self._planes = [
            self._rows(plane, size) for plane, size in zip(planes, layout.plane_bytes, strict=True)
        ]
        self.num_pages = self._planes[0].shape[0]
        if any(plane.shape[0] != self.num_pages for plane in self._planes):
            raise MemPoolError(f"planes of {sorted({p.shape[0] for p in self._planes})} pages in one pool")
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._slices = self._plane_slices()

    def _rows(self, plane: torch.Tensor, row_bytes: int) -> torch.Tensor:
        if plane.device != self.device:
            raise MemPoolError(f"plane on {plane.device}, the others on {self.device}")
        if not plane.is_contiguous() or plane.nbytes % row_bytes:
            raise MemPoolError(
                f"plane of shape {tuple(plane.shape)} is not a contiguous row of pages of {row_bytes} bytes"
            )
        return plane.view(-1).view(torch.uint8).view(-1, row_bytes).view(self._dtype)

    def _plane_slices(self) -> list[slice]:
        slices, start = [], 0
        for size in self.layout.plane_bytes:
            stop = start + size // self._dtype.itemsize
            slices.append(slice(start, stop))
            start = stop
        return slices

    def host_blocks(self, count: int) -> torch.Tensor:
        """Host memory for `count` blocks, uint8 `[count, block_bytes]`, pinned where CUDA is."""
        return torch.empty(
            (count, self.layout.block_bytes), dtype=torch.uint8, pin_memory=self._stream is not None
        )

    def gather(self, pages: torch.Tensor, out: torch.Tensor) -> None:
        """Copies blocks out. `pages`: int64 `[n]`, host; `out`: host uint8 `[n, block_bytes]`.

        Raises MemPoolError for a page outside the buffers.
        """
        self._check(pages, out)
        with self._on_stream():
            index = pages.to(self.device, non_blocking=True)
            blocks = out.view(self._dtype)
            target = blocks if self._stream is None else torch.empty_like(blocks, device=self.device)
            for plane, part in zip(self._planes, self._slices, strict=True):
                torch.index_select(plane, 0, index, out=target[:, part])
            if target is not blocks:
                blocks.copy_(target, non_blocking=True)
        self._finish()

    def scatter(
        self, pages: torch.Tensor, blocks: torch.Tensor, after: torch.cuda.Event | None = None
    ) -> None:
        """Copies blocks in: the inverse of `gather`, with the same shapes and errors.

        On CUDA the copy waits for `after`, on the device.
        """
        self._check(pages, blocks)
        with self._on_stream():
            if self._stream is not None and after is not None:
                self._stream.wait_event(after)
            index = pages.to(self.device, non_blocking=True)
            source = blocks.view(self._dtype).to(self.device, non_blocking=True)
            for plane, part in zip(self._planes, self._slices, strict=True):
                plane.index_copy_(0, index, source[:, part])
        self._finish()

    def _check(self, pages: torch.Tensor, blocks: torch.Tensor) -> None:
        if blocks.shape != (len(pages), self.layout.block_bytes):
            raise MemPoolError(
                f"{len(pages)} pages need [{len(pages)}, {self.layout.block_bytes}] bytes, "
                f"got {list(blocks.shape)}"
            )
        if len(pages) and not 0 <= int(pages.min()) <= int(pages.max()) < self.num_pages:
            raise MemPoolError(
                f"page {int(pages.min())} or {int(pages.max())} is not in [0, {self.num_pages})"
            )

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
