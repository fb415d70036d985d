"""Addresses: where blocks are. Imports no torch."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BlockNumbers = npt.NDArray[np.int32]


class Medium(StrEnum):
    """A kind of memory that holds blocks.

    Attributes:
        HBM: The engine's device pool. On a host without a GPU it is host memory too.
        DRAM: Host memory.
    """

    HBM = "hbm"
    DRAM = "dram"


class Owner(NamedTuple):
    """One medium of one instance, for one incarnation of that instance.

    Attributes:
        instance: The name of the instance.
        incarnation: A number that is new at every start of the instance.
        medium: Which of its media.
    """

    instance: str
    incarnation: int
    medium: Medium

    def __str__(self) -> str:
        return f"{self.medium} of {self.instance} (incarnation {self.incarnation})"


class Address(NamedTuple):
    """One block of one medium of one instance.

    Attributes:
        instance: The name of the instance.
        incarnation: A number that is new at every start of the instance.
        medium: Which of its media.
        block: The number of the block there.
    """

    instance: str
    incarnation: int
    medium: Medium
    block: int


class Addresses:
    """The addresses of many blocks of one owner, in order, without an object for each.

    Iterating gives an `Address` for each block, a slice gives `Addresses`.

    Attributes:
        owner: The medium, instance and incarnation of all the blocks.
        blocks: The block numbers, int32 `[n]`. The array is kept, not copied: do not write to it.
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
    """The same blocks in the same order. Neighbours of one owner are put together."""
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


def after(parts: Sequence[Addresses], count: int) -> list[Addresses]:
    """The same blocks without the first `count`."""
    rest: list[Addresses] = []
    for part in parts:
        skipped = min(count, len(part))
        count -= skipped
        if skipped < len(part):
            rest.append(part[skipped:])
    return rest
