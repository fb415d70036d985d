"""Where a block is. Imports no torch."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BlockNumbers = npt.NDArray[np.int32]


class Medium(StrEnum):
    """HBM is the engine's device pool: on a host without a GPU it is host memory all the same."""

    HBM = "hbm"
    DRAM = "dram"


class Owner(NamedTuple):
    """One medium of one instance, as of one start of that instance."""

    instance: str
    incarnation: int
    medium: Medium

    def __str__(self) -> str:
        return f"{self.medium} of {self.instance} (incarnation {self.incarnation})"


class Address(NamedTuple):
    instance: str
    incarnation: int
    medium: Medium
    block: int


class Addresses:
    """Blocks of one owner, in order: the addresses of many blocks without an object for each.

    `blocks`: int32 `[n]`. It is kept, not copied: do not write to it.
    """

    __slots__ = ("blocks", "owner")

    def __init__(self, owner: Owner, blocks: BlockNumbers | Sequence[int]) -> None:
        self.owner = owner
        self.blocks: BlockNumbers = np.asarray(blocks, dtype=np.int32)

    @property
    def medium(self) -> Medium:
        return self.owner.medium

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, part: slice) -> "Addresses":
        return Addresses(self.owner, self.blocks[part])

    def __iter__(self) -> Iterator[Address]:
        return (Address(*self.owner, int(block)) for block in self.blocks)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Addresses)
            and self.owner == other.owner
            and np.array_equal(self.blocks, other.blocks)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Addresses({self.owner}, {len(self)} blocks)"


def merged(parts: Sequence[Addresses]) -> list[Addresses]:
    """The same blocks in the same order, neighbours of one owner put together."""
    groups: list[list[Addresses]] = []
    for part in parts:
        if not len(part):
            continue
        if groups and groups[-1][0].owner == part.owner:
            groups[-1].append(part)
        else:
            groups.append([part])
    return [
        group[0]
        if len(group) == 1
        else Addresses(group[0].owner, np.concatenate([part.blocks for part in group]))
        for group in groups
    ]
