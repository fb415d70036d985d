"""An engine's paged KV buffers, read and written as aggregated blocks."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from mempool.device import Device, DeviceEvent, device_of
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout
from mempool.planes import Planes
from mempool.shared_memory import SharedRegion

# Large enough that launches cost little beside the bytes, and small beside what an engine leaves free.
_PIECE_BYTES = 16 << 20


class PagedBuffers:
    """Views over an engine's K and V buffers. It owns no memory of theirs, and takes no part in allocation.

    Not thread-safe: the calls of one object belong to one thread. Where the device runs ahead, they run on a
    stream of their own, through `piece_bytes` of its memory, and all but `begin_scatter` return when their
    bytes are there.

    Args:
        planes: One tensor for each plane of the block, in block order: contiguous, any dtype, all on one
            device. The first dimension counts token slots, and is a multiple of the page size.
        layout: The layout of a block.
        device: What the planes are on, where that is not to be found out from them.
        piece_bytes: How much is copied at once between the device and the host, unless a block is more.

    Raises:
        MemPoolError: The planes do not fit the layout, or each other.
    """

    def __init__(
        self,
        planes: Sequence[torch.Tensor],
        layout: BlockLayout,
        device: Device | None = None,
        *,
        piece_bytes: int = _PIECE_BYTES,
    ) -> None:
        if len(planes) != len(layout.plane_bytes):
            raise MemPoolError(f"{len(planes)} planes given, the layout has {len(layout.plane_bytes)}")
        self.layout = layout
        self.device = device or device_of(planes[0].device)
        self._planes = Planes(planes, layout.plane_bytes)
        self._stream = self.device.new_stream()
        self._piece_bytes = max(piece_bytes, layout.block_bytes)
        self._on_device: torch.Tensor | None = None
        self._every = range(len(planes))

    @property
    def num_blocks(self) -> int:
        """How many blocks the buffers hold."""
        return self._planes.num_pages

    @property
    def wants_pinned(self) -> bool:
        return self.device.runs_ahead

    @property
    def regions(self) -> tuple[SharedRegion, ...]:
        """None at all: it has no views."""
        return ()

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

        `pages`: integers `[n]`, on the host or on the device; `out`: host uint8
        `[n, layout.row_bytes(planes)]`. Raises MemPoolError for a page outside the buffers; pages that are on
        a CUDA device are the engine's own word, and not looked at.
        """
        self.gather_to(pages, [out], planes)

    def gather_to(
        self, pages: torch.Tensor, parts: Sequence[torch.Tensor], planes: range | None = None
    ) -> None:
        """As `gather`, to several parts of host memory, each for the next blocks."""
        planes = self._every if planes is None else planes
        self._check(pages, parts, planes)
        if self._stream is None:
            for index, part in _shared_out(pages, parts):
                self._planes.gather(index, part, planes)
            return
        with self.device.on(self._stream):
            index = self.device.to_device(pages, torch.int64)
            for piece, targets in self._pieces(index, parts, planes):
                blocks = self._staging(len(piece), planes)
                self._planes.gather(piece, blocks, planes)
                for rows, part in _shared_out(blocks, targets):
                    part.copy_(rows, non_blocking=True)
        self._stream.synchronize()

    def scatter(
        self,
        pages: torch.Tensor,
        blocks: torch.Tensor,
        after: DeviceEvent | None = None,
        planes: range | None = None,
    ) -> None:
        """Copies blocks in, not before `after`: the inverse of `gather`, with the same shapes and errors."""
        planes = self._every if planes is None else planes
        self._check(pages, [blocks], planes)
        if self._stream is None:
            self._planes.scatter(pages, blocks, planes)
            return
        self._launch_scatter(pages, [blocks], after, planes)
        self._stream.synchronize()

    def begin_scatter(
        self, pages: torch.Tensor, parts: Sequence[torch.Tensor], after: DeviceEvent | None = None
    ) -> None:
        """As `scatter`, from several parts of host memory, each with the next blocks, on a device that runs
        ahead. It waits for nothing. Pages and parts are in use until the device is past `record`.
        """
        self._require_shapes(pages, parts, self._every)
        self._launch_scatter(pages, parts, after, self._every)

    def record(self) -> DeviceEvent:
        """On a device that runs ahead: after all that these buffers' stream was given by now."""
        assert self._stream is not None
        return self._stream.record_event()

    def _launch_scatter(
        self, pages: torch.Tensor, parts: Sequence[torch.Tensor], after: DeviceEvent | None, planes: range
    ) -> None:
        assert self._stream is not None
        with self.device.on(self._stream):
            for number, (piece, sources) in enumerate(self._pieces(pages, parts, planes)):
                blocks = self._staging(len(piece), planes)
                for rows, part in _shared_out(blocks, sources):
                    rows.copy_(part, non_blocking=True)
                # The first piece is on the device by the time that its pages may be written to. Pages that
                # the device has yet to compute may not be read before either.
                if number == 0 and after is not None:
                    self._stream.wait_event(after)
                self._planes.scatter(self.device.to_device(piece, torch.int64), blocks, planes)

    def _staging(self, count: int, planes: range) -> torch.Tensor:
        """Device memory for `count` blocks: of the stream, which writes to it again in order."""
        if self._on_device is None:
            self._on_device = torch.empty(
                self._piece_bytes, dtype=torch.uint8, device=self.device.torch_device
            )
        width = self.layout.row_bytes(planes)
        return self._on_device[: count * width].view(count, width)

    def _pieces(
        self, pages: torch.Tensor, parts: Sequence[torch.Tensor], planes: range
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Pages and their places on the host, as much as is copied at once."""
        count = self._piece_bytes // self.layout.row_bytes(planes)
        left = deque(parts)
        for first in range(0, len(pages), count):
            piece = pages[first : first + count]
            wanted, places = len(piece), []
            while wanted:
                part = left.popleft()
                places.append(part[:wanted])
                if len(part) > wanted:
                    left.appendleft(part[wanted:])
                wanted -= len(places[-1])
            yield piece, places

    def _check(self, pages: torch.Tensor, parts: Sequence[torch.Tensor], planes: range) -> None:
        self._require_shapes(pages, parts, planes)
        if len(pages) and pages.device.type == "cpu":
            lowest, highest = int(pages.min()), int(pages.max())
            if not 0 <= lowest <= highest < self.num_blocks:
                raise MemPoolError(f"page {lowest} or {highest} is not in [0, {self.num_blocks})")

    def _require_shapes(self, pages: torch.Tensor, parts: Sequence[torch.Tensor], planes: range) -> None:
        shape = (len(pages), self.layout.row_bytes(planes))
        given = sum(len(part) for part in parts)
        if given != shape[0] or any(part.dim() != 2 or part.shape[1] != shape[1] for part in parts):
            shapes = [list(part.shape) for part in parts[:8]]
            raise MemPoolError(f"{len(pages)} pages need {list(shape)} bytes, got {shapes}")


def _shared_out(
    rows: torch.Tensor, parts: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rows that belong to each part, and the part."""
    start = 0
    for part in parts:
        yield rows[start : start + len(part)], part
        start += len(part)
