"""One launch that gathers or scatters blocks over all planes of a KV pool. Needs Triton.

Each program moves one tile of one row: of a block, and of a plane. A row's bytes are read and written as
numbers of `unit` bytes, so that the dtype of KV does not matter.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

_UNITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
# 16 KiB of the widest unit: enough bytes under way for each program, and enough programs for one small block.
_TILE = 2048


@triton.jit(do_not_specialize=["num_planes", "first", "block_width"])
def _move(
    addresses: Any, widths: Any, starts: Any, num_planes: Any, first: Any, pages: Any, blocks: Any,
    block_width: Any, tile: tl.constexpr, gathers: tl.constexpr,
) -> None:  # fmt: skip
    """`addresses` of planes; `widths` of their rows, and the `starts` of these in a whole block, of which
    `blocks` have what is from `first` on, `block_width` each; all in units.
    """
    place = tl.program_id(0)
    block, plane = (place // num_planes).to(tl.int64), place % num_planes
    width = tl.load(widths + plane)
    columns = tl.program_id(1) * tile + tl.arange(0, tile)
    inside = columns < width
    rows = tl.load(addresses + plane).to(blocks.dtype)
    in_pool = rows + tl.load(pages + block) * width + columns
    in_block = blocks + block * block_width + tl.load(starts + plane) - first + columns
    if gathers:
        tl.store(in_block, tl.load(in_pool, mask=inside), mask=inside)
    else:
        tl.store(in_pool, tl.load(in_block, mask=inside), mask=inside)


class PlaneKernels:
    """For planes of `row_bytes` a page each, by their rows: contiguous uint8 `[pages, row_bytes]` tensors."""

    def __init__(self, rows: Sequence[torch.Tensor], row_bytes: Sequence[int]) -> None:
        device = rows[0].device
        # The widest unit that divides every row, and every plane's place in memory.
        numbers = [*row_bytes, *(plane.data_ptr() for plane in rows)]
        self._unit = next(unit for unit in _UNITS if all(number % unit == 0 for number in numbers))
        self._widths = [size // self._unit for size in row_bytes]
        table = torch.tensor([[plane.data_ptr() for plane in rows], self._widths], dtype=torch.int64)
        self._addresses, self._device_widths = table.to(device)
        starts = torch.tensor([0, *self._widths], dtype=torch.int64).cumsum(0)
        self._starts = starts.to(device)
        self._host_starts: list[int] = starts.tolist()

    def gather(self, index: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        """As `Planes.gather`."""
        self._launch(index, blocks, planes, gathers=True)

    def scatter(self, index: torch.Tensor, blocks: torch.Tensor, planes: range) -> None:
        """As `Planes.scatter`."""
        self._launch(index, blocks, planes, gathers=False)

    def _launch(self, index: torch.Tensor, blocks: torch.Tensor, planes: range, *, gathers: bool) -> None:
        if not len(index):
            return
        part = slice(planes.start, planes.stop)
        grid: Any = (len(index) * len(planes), triton.cdiv(max(self._widths[part]), _TILE))
        first = self._host_starts[planes.start]
        _move[grid](
            self._addresses[part], self._device_widths[part], self._starts[part], len(planes), first,
            index, blocks.view(_UNITS[self._unit]), self._host_starts[planes.stop] - first,
            tile=_TILE, gathers=gathers,
        )  # fmt: skip
