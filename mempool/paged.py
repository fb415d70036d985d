"""An engine's paged KV buffers, read and written as aggregated blocks."""

from collections.abc import Iterator, Sequence

import torch

from mempool.device import Device, Event, device_of
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout


class PagedBuffers:
    """Views over an engine's K and V buffers. It owns no memory, and takes no part in its allocation.

    Not thread-safe: `gather` and `scatter` of one object belong to one thread. On CUDA both run on a stream
    of their own, and return when their bytes are there.

    Args:
        planes: One tensor for each plane of the block, in block order: contiguous, any dtype, all on one
            device. The first dimension counts token slots, and is a multiple of the page size.
        layout: The layout of a block.
        device: What the planes are on, where that is not to be found out from them.

    Raises:
        MemPoolError: The planes do not fit the layout, or each other.
    """

    def __init__(
        self, planes: Sequence[torch.Tensor], layout: BlockLayout, device: Device | None = None
    ) -> None:
        if len(planes) != len(layout.plane_bytes):
            raise MemPoolError(f"{len(planes)} planes given, the layout has {len(layout.plane_bytes)}")
        self.layout = layout
        self.device = device or device_of(planes[0].device)
        # The widest element that divides every row: CPU copies of uint8 rows are several times slower.
        self._dtype = torch.int64 if all(size % 8 == 0 for size in layout.plane_bytes) else torch.uint8
        self._planes = [
            self._rows(plane, size) for plane, size in zip(planes, layout.plane_bytes, strict=True)
        ]
        self.num_pages: int = self._planes[0].shape[0]
        if any(plane.shape[0] != self.num_pages for plane in self._planes):
            raise MemPoolError(f"planes of {sorted({p.shape[0] for p in self._planes})} pages in one pool")
        self._stream = self.device.new_stream()
        self._every = range(len(self._planes))

    def _rows(self, plane: torch.Tensor, row_bytes: int) -> torch.Tensor:
        if plane.device != self.device.torch_device:
            raise MemPoolError(f"plane on {plane.device}, the others on {self.device.torch_device}")
        if not plane.is_contiguous() or plane.nbytes % row_bytes:
            raise MemPoolError(
                f"plane of shape {tuple(plane.shape)} is not a contiguous row of pages of {row_bytes} bytes"
            )
        return plane.view(-1).view(torch.uint8).view(-1, row_bytes).view(self._dtype)

    def _parts(self, planes: range) -> Iterator[tuple[torch.Tensor, slice]]:
        """Each plane, and where its rows are among the columns of a block of these planes."""
        start = 0
        for plane in self._planes[planes.start : planes.stop]:
            stop = start + plane.shape[1]
            yield plane, slice(start, stop)
            start = stop

    @property
    def num_blocks(self) -> int:
        """How many blocks the buffers hold."""
        return self.num_pages

    def host_bytes(self, count: int) -> torch.Tensor:
        """Host memory, uint8 `[count]`, pinned where CUDA is."""
        return self.device.host_memory(count)

    def host_blocks(self, count: int) -> torch.Tensor:
        """Host memory for `count` blocks, uint8 `[count, block_bytes]`, pinned where CUDA is."""
        return self.host_bytes(count * self.layout.block_bytes).view(count, -1)

    def views(self, pages: torch.Tensor, planes: range | None = None) -> None:
        """None: the planes of an engine's block are in different buffers, and have to be gathered."""
        return None

    def gather(self, pages: torch.Tensor, out: torch.Tensor, planes: range | None = None) -> None:
        """Copies blocks out, all planes by default.

        `pages`: int64 `[n]`, host; `out`: host uint8 `[n, layout.row_bytes(planes)]`. Raises MemPoolError
        for a page outside the buffers.
        """
        planes = self._every if planes is None else planes
        self._check(pages, out, planes)
        with self.device.on(self._stream):
            index = pages.to(self.device.torch_device, non_blocking=True)
            blocks = out.view(self._dtype)
            target = (
                blocks if self._stream is None else torch.empty_like(blocks, device=self.device.torch_device)
            )
            for plane, part in self._parts(planes):
                torch.index_select(plane, 0, index, out=target[:, part])
            if target is not blocks:
                blocks.copy_(target, non_blocking=True)
        self._finish()

    def scatter(
        self,
        pages: torch.Tensor,
        blocks: torch.Tensor,
        after: Event | None = None,
        planes: range | None = None,
    ) -> None:
        """Copies blocks in: the inverse of `gather`, with the same shapes and errors.

        On CUDA the copy waits for `after`, on the device.
        """
        planes = self._every if planes is None else planes
        self._check(pages, blocks, planes)
        with self.device.on(self._stream):
            if self._stream is not None and after is not None:
                self._stream.wait_event(after)
            index = pages.to(self.device.torch_device, non_blocking=True)
            source = blocks.view(self._dtype).to(self.device.torch_device, non_blocking=True)
            for plane, part in self._parts(planes):
                plane.index_copy_(0, index, source[:, part])
        self._finish()

    def _check(self, pages: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        shape = (len(pages), self.layout.row_bytes(planes))
        if blocks.shape != shape:
            raise MemPoolError(f"{len(pages)} pages need {list(shape)} bytes, got {list(blocks.shape)}")
        if len(pages) and not 0 <= int(pages.min()) <= int(pages.max()) < self.num_pages:
            raise MemPoolError(
                f"page {int(pages.min())} or {int(pages.max())} is not in [0, {self.num_pages})"
            )

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
