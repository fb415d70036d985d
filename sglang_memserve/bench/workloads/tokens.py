"""Token ids by name."""

from hashlib import shake_128
from typing import Protocol

import numpy as np


class TextEncoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


class TokenSource:
    """Token ids spread evenly over a vocabulary: for one name always the same, for another name others.

    What is asked for at length begins with what is asked for in short.
    """

    def __init__(self, seed: int, vocabulary: tuple[int, int]) -> None:
        self._seed = seed
        # Workloads hold millions of ids: as objects they are picked, not made, and so cost 8 bytes each.
        self._ids = np.array(range(*vocabulary), dtype=object)

    def __call__(self, name: str, count: int) -> tuple[int, ...]:
        noise = shake_128(f"{self._seed} {name}".encode()).digest(4 * count)
        return tuple(self._ids[np.frombuffer(noise, "<u4") % len(self._ids)].tolist())
