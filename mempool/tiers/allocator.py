"""The allocator of one medium: which block is free, active or historical. Imports no torch."""

import numpy as np
import numpy.typing as npt

from mempool.address import Addresses, BlockNumbers, Owner
from mempool.errors import BadAddress, OutOfBlocks, StaleAddress

_FREE, _ACTIVE, _HISTORICAL = 0, 1, 2
_NAMES = ("free", "active KV", "historical KV")
# Beside the state of a block, in the same byte.
_IN_FLIGHT, _LEAVING = 4, 8
_STATE = 3

# NumPy takes these as an index several times faster than the int32 that addresses are kept in.
_Index = npt.NDArray[np.intp]


class BlockAllocator:
    """Gives out blocks 0 to `total` - 1 of `owner`. Not thread-safe: the pool holds its lock around it.

    free + active + historical == total after every call. A call that raises has changed nothing.
    """

    def __init__(self, owner: Owner, total: int) -> None:
        self.owner = owner
        self.total = total
        self.free_blocks = total
        self.historical_blocks = 0
        # Descending, so that a fresh medium gives out runs of neighbours, which move in fewer pieces.
        self._stack: BlockNumbers = np.arange(total - 1, -1, -1, dtype=np.int32)
        self._state = np.zeros(total, dtype=np.uint8)
        self._flights = np.zeros(total, dtype=np.int32)
        self._mark = np.zeros(total, dtype=np.int32)

    @property
    def active_blocks(self) -> int:
        return self.total - self.free_blocks - self.historical_blocks

    def alloc(self, count: int) -> Addresses:
        """`count` free blocks, active from now on. Raises OutOfBlocks, ValueError for a negative count."""
        if count < 0:
            raise ValueError(f"{count} blocks asked of {self.owner}")
        if count > self.free_blocks:
            raise OutOfBlocks(
                self.owner, f"{count} blocks asked, {self.free_blocks} of {self.total} are free"
            )
        self.free_blocks -= count
        blocks = self._stack[self.free_blocks : self.free_blocks + count][::-1].copy()
        self._state[blocks.astype(np.intp)] = _ACTIVE
        return Addresses(self.owner, blocks)

    def free(self, addresses: Addresses) -> None:
        """Active becomes free; a pinned block does at its last `unpin`. Raises BadAddress, StaleAddress."""
        self._give_back(self._checked(addresses, _ACTIVE))

    def publish(self, addresses: Addresses) -> None:
        """Active becomes historical. Raises BadAddress, StaleAddress."""
        index = self._checked(addresses, _ACTIVE)
        self._state[index] ^= _ACTIVE | _HISTORICAL
        self.historical_blocks += len(index)

    def retire(self, addresses: Addresses) -> None:
        """Historical becomes free, as `free` does it. Raises BadAddress, StaleAddress."""
        self._give_back(self._checked(addresses, _HISTORICAL))

    def require_active(self, addresses: Addresses) -> None:
        """Raises BadAddress, StaleAddress."""
        self._checked(addresses, _ACTIVE)

    def inactive(self, addresses: Addresses) -> Addresses:
        """Those that are historical. Raises BadAddress for one that is free, StaleAddress."""
        index = self._checked(addresses, _ACTIVE, _HISTORICAL)
        return Addresses(self.owner, addresses.blocks[self._state[index] & _HISTORICAL > 0])

    def still_active(self, addresses: Addresses) -> Addresses:
        """The blocks of these that are still active. Raises nothing."""
        return self._those(addresses, _ACTIVE)

    def still_historical(self, addresses: Addresses) -> Addresses:
        """The blocks of these that are still historical. Raises nothing."""
        return self._those(addresses, _HISTORICAL)

    def pin(self, addresses: Addresses) -> None:
        """Keeps blocks from being reused, even if freed, until `unpin` has been called as often as this.

        Raises BadAddress for a block that is free, StaleAddress.
        """
        index = self._checked(addresses, _ACTIVE, _HISTORICAL)
        self._flights[index] += 1
        self._state[index] |= _IN_FLIGHT

    def unpin(self, addresses: Addresses) -> None:
        index = addresses.blocks.astype(np.intp)
        self._flights[index] -= 1
        landed = index[self._flights[index] == 0]
        self._state[landed] &= ~np.uint8(_IN_FLIGHT)
        self._reuse(landed[self._state[landed] >= _LEAVING])

    def _those(self, addresses: Addresses, state: int) -> Addresses:
        if addresses.owner != self.owner:
            return addresses[:0]
        found = self._state[addresses.blocks.astype(np.intp)] & ~np.uint8(_IN_FLIGHT)
        return Addresses(self.owner, addresses.blocks[found == state])

    def _checked(self, addresses: Addresses, *states: int) -> _Index:
        if addresses.owner != self.owner:
            raise self._not_mine(addresses.owner)
        index = addresses.blocks.astype(np.intp)
        if not len(index):
            return index
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= self.total:
            raise BadAddress(self.owner, f"it has no block {low if low < 0 else high}")
        found = self._state.take(index)
        fits = found == states[0]
        if not fits.all():
            fits = np.isin(found & ~np.uint8(_IN_FLIGHT), states)
        if not fits.all():
            raise BadAddress(self.owner, f"block {self._first(index, ~fits)}")
        self._require_unique(index)
        return index

    def _not_mine(self, owner: Owner) -> BadAddress:
        if (owner.instance, owner.medium) == (self.owner.instance, self.owner.medium):
            return StaleAddress(owner, f"no more: the present incarnation is {self.owner.incarnation}")
        return BadAddress(owner, f"not {self.owner}")

    def _first(self, index: _Index, wrong: npt.NDArray[np.bool_]) -> str:
        block = int(index[int(wrong.argmax())])
        state = int(self._state[block])
        return f"{block} is {'given back already' if state >= _LEAVING else _NAMES[state & _STATE]}"

    def _require_unique(self, index: _Index) -> None:
        places = np.arange(len(index), dtype=np.int32)
        self._mark[index] = places
        twice = self._mark.take(index) != places
        if twice.any():
            raise BadAddress(self.owner, f"block {int(index[int(twice.argmax())])} is named twice")

    def _give_back(self, index: _Index) -> None:
        if len(index) and int(self._state.take(index).max()) >= _IN_FLIGHT:
            flying = self._state[index] >= _IN_FLIGHT
            self._state[index[flying]] |= _LEAVING
            index = index[~flying]
        self._reuse(index)

    def _reuse(self, index: _Index) -> None:
        if self.historical_blocks:
            self.historical_blocks -= int(np.count_nonzero(self._state.take(index) & _HISTORICAL))
        self._state[index] = _FREE
        self._stack[self.free_blocks : self.free_blocks + len(index)] = index[::-1]
        self.free_blocks += len(index)
