"""Matrix multiplication: compute-bound, in waves of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple, TypeVar

import msgspec

from router.cost.fitting import Array, mean_error, nonnegative

# Whole numbers, or arrays of them.
Amount = TypeVar("Amount", int, Array)
_TILES = (64, 128, 256)


class GemmRow(NamedTuple):
    """A measurement: `[m, k]` times `[k, n]` took `seconds`."""

    m: int
    n: int
    k: int
    seconds: float


class Gemm(msgspec.Struct, frozen=True, kw_only=True):
    """`units` (SMs of a GPU, threads of a CPU) compute one tile of the output each at a time.

    After arXiv 2406.17565, section 6: eta = ceil(tiles / units) waves. The last wave counts as a full one,
    since its tiles take as long, however few they are. The time of a wave is linear in k. Bytes read and
    written (memory-bound, as at m = 1) and the launch are added: on the H100 tables the sum extrapolates over
    TP better than the greater of the two. Times are in seconds.
    """

    tile_m: int
    tile_n: int
    units: int
    element_bytes: int
    call_s: float
    wave_s: float
    wave_k_s: float
    byte_s: float

    def seconds(self, m: Amount, n: int, k: int) -> Amount | float:
        """`[m, k]` times `[k, n]`. If `m` is an array, so is the result."""
        calls, waves, depth, moved = _features(
            self.tile_m, self.tile_n, self.units, self.element_bytes, m, n, k
        )
        return calls * self.call_s + waves * self.wave_s + depth * self.wave_k_s + moved * self.byte_s

    @classmethod
    def fit(
        cls, rows: Sequence[GemmRow], units: int, element_bytes: int, tiles: Sequence[int] = _TILES
    ) -> Gemm:
        """With the sides of a tile, out of `tiles`, that fit best. Raises FitError."""
        fits = [_fitted(cls, rows, units, element_bytes, sides) for sides in product(tiles, tiles)]
        return min(fits, key=lambda gemm: gemm.error(rows))

    def error(self, rows: Sequence[GemmRow]) -> float:
        """Mean relative error on `rows`."""
        return mean_error((self.seconds(*row[:3]) for row in rows), (row.seconds for row in rows))


def _features(
    tile_m: int, tile_n: int, units: int, element: int, m: Amount, n: int, k: int
) -> tuple[int, Amount, Amount, Amount]:
    tiles = -(-m // tile_m) * -(-n // tile_n)
    waves = -(-tiles // units)
    return 1, waves, waves * k, element * (m * k + n * k + m * n)


def _fitted(
    cls: type[Gemm], rows: Sequence[GemmRow], units: int, element: int, sides: tuple[int, int]
) -> Gemm:
    features = [_features(*sides, units, element, *row[:3]) for row in rows]
    call, wave, depth, moved = nonnegative(features, [row.seconds for row in rows])
    return cls(
        tile_m=sides[0],
        tile_n=sides[1],
        units=units,
        element_bytes=element,
        call_s=call,
        wave_s=wave,
        wave_k_s=depth,
        byte_s=moved,
    )
