"""Which cells of a transfer, (block, plane) pairs, have landed."""

import numpy as np
import numpy.typing as npt

from mempool import wire
from mempool.errors import MemPoolError


class Cells:
    """Counts blocks that come one after the other; keeps a table of cells once one does not."""

    def __init__(self, blocks: int, planes: int) -> None:
        self._blocks = blocks
        self._planes = planes
        self._landed = 0
        self._table: npt.NDArray[np.bool_] | None = None

    @property
    def complete(self) -> bool:
        return self._landed == self._blocks * self._planes

    def require_inside(self, part: wire.Blocks) -> None:
        """Raises MemPoolError for cells out of range."""
        if part.first + part.count > self._blocks or part.plane + part.planes > self._planes:
            raise MemPoolError(f"{_name(part)} of {self._blocks} blocks of {self._planes} planes")

    def land(self, part: wire.Blocks) -> None:
        """Marks cells in range. Raises MemPoolError where one has landed before, unless it is sent `again`;
        nothing is marked then.
        """
        if self._table is None and not self._follows(part):
            self._table = np.zeros((self._blocks, self._planes), dtype=np.bool_)
            self._table.reshape(-1)[: self._landed] = True
        if self._table is not None:
            cells = self._table[part.first : part.first + part.count, part.plane : part.plane + part.planes]
            before = int(cells.sum())
            if before and not part.again:
                raise MemPoolError(f"{_name(part)}: some have landed before")
            cells[:] = True
            self._landed -= before
        self._landed += part.count * part.planes

    def __str__(self) -> str:
        return f"{self._landed / self._planes:g} of {self._blocks} blocks"

    def _follows(self, part: wire.Blocks) -> bool:
        at_the_end = part.first * self._planes + part.plane == self._landed
        return at_the_end and (part.count == 1 or part.planes == self._planes)


def _name(part: wire.Blocks) -> str:
    return (
        f"planes {part.plane} to {part.plane + part.planes} of blocks {part.first} "
        f"to {part.first + part.count}"
    )
