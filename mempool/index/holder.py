"""What the index keeps for each owner: how many blocks it has published, and where in the tree."""

import numpy as np
import numpy.typing as npt

from mempool.address import BlockNumbers, Owner
from mempool.errors import BadAddress

# A block is known for life as (run, place in the run), packed: 2**39 runs of at most 2**24 blocks.
PLACE_BITS = 24
MAX_RUN_BLOCKS = 1 << PLACE_BITS
Places = npt.NDArray[np.int64]


class Holder:
    """Compared by identity, so that a dict look-up hashes no strings. `blocks` counts what is published.

    The reverse map takes 8 bytes for each block number up to the highest that was ever published.
    """

    __slots__ = ("_places", "blocks", "owner")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.blocks = 0
        self._places: Places = np.full(64, -1, dtype=np.int64)

    @property
    def recorded(self) -> int:
        return int(np.count_nonzero(self._places >= 0))

    def record(self, blocks: BlockNumbers, run: int, first: int) -> None:
        start = run << PLACE_BITS | first
        self._reach(int(blocks.max()))
        self._places[blocks] = np.arange(start, start + len(blocks))

    def forget(self, blocks: BlockNumbers) -> None:
        self._places[blocks] = -1

    def places(self, blocks: BlockNumbers) -> Places:
        """int64 `[n]`: the packed place of each block, -1 where it is not published.

        Raises BadAddress for a negative number, and for a block that is named twice.
        """
        if not len(blocks):
            return np.empty(0, dtype=np.int64)
        lowest, highest = self._bounds(blocks)
        if lowest < 0:
            raise BadAddress(self.owner, f"block {lowest} is not a block number")
        if highest < len(self._places):
            return self._places[blocks]
        return np.where(blocks < len(self._places), self._places.take(blocks, mode="clip"), -1)

    def _bounds(self, blocks: BlockNumbers) -> tuple[int, int]:
        """The lowest and the highest. Raises BadAddress for a block that is named twice."""
        # An allocator gives ascending numbers as a rule: that spares the sort. And count_nonzero costs a
        # fraction of what any() does on so few numbers.
        if np.count_nonzero(blocks[1:] <= blocks[:-1]):
            blocks = blocks.copy()
            blocks.sort()
            same = blocks[1:] == blocks[:-1]
            if np.count_nonzero(same):
                raise BadAddress(self.owner, f"block {blocks[same.argmax()]} is named twice")
        return int(blocks[0]), int(blocks[-1])

    def _reach(self, highest: int) -> None:
        known = len(self._places)
        if highest >= known:
            grown = np.full(max(2 * known, highest + 1), -1, dtype=np.int64)
            grown[:known] = self._places
            self._places = grown
