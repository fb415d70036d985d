"""Attention of a prefill: compute-bound, in waves of tiles of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.cost.fitting import FitError, mean_error, nonnegative

Request = tuple[int, int]
"""A request of a batch: tokens whose KV is cached, and tokens to compute."""
_TILES = (16, 32, 64, 128)


class Heads(NamedTuple):
    """One rank's share: query heads, KV heads, and the dimension of each."""

    query: int
    kv: int
    dim: int


class AttentionRow(NamedTuple):
    """A measurement: the attention of one layer took `seconds` for a batch."""

    batch: tuple[Request, ...]
    heads: Heads
    seconds: float


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """One attention kernel of an engine, for the requests that it `takes`. Coefficients are in seconds.

    A tile is `tile` queries of one head. `units` tiles run at a time, in eta = ceil(tiles / units) waves
    (arXiv 2406.17565, section 6). The time of a tile is linear in the keys that it sees: the prefix and, on
    average, half of the new tokens (`causal`), or all of them under a mask. Summed over the tiles that is the
    paper's x^2(1 - y^2), for a prompt of x tokens with cached ratio y. Reading K and V, each request and the
    launch are added.
    """

    tile: int
    units: int
    causal: bool = True
    with_prefix: bool | None = None
    # In profiles it has another name.
    max_scores: int | None = msgspec.field(default=None, name="most_scores")
    request_s: float = 0.0
    call_s: float = 0.0
    key_s: float = 0.0
    wave_s: float = 0.0
    wave_key_s: float = 0.0

    def takes(self, cached: int, new: int) -> bool:
        """`with_prefix`: only requests with (without) one; `max_scores`: up to so many new x all tokens."""
        if self.with_prefix is not None and self.with_prefix != (cached > 0):
            return False
        return self.max_scores is None or new * (cached + new) <= self.max_scores

    def seconds(self, batch: Sequence[Request], heads: Heads) -> float:
        requests, call, keys, waves, seen = self.features(batch, heads)
        return (
            requests * self.request_s
            + call * self.call_s
            + keys * self.key_s
            + waves * self.wave_s
            + seen * self.wave_key_s
        )

    def features(self, batch: Sequence[Request], heads: Heads) -> tuple[float, float, float, float, float]:
        tiles = seen = keys = 0.0
        for cached, new in batch:
            count = -(-new // self.tile)
            tiles += count
            seen += count * (cached + ((new + self.tile) / 2 if self.causal else new))
            keys += cached + new
        waves = -(-tiles * heads.query // self.units)
        depth = waves * heads.dim * seen / tiles if tiles else 0.0
        return len(batch), 1.0, keys * heads.kv * heads.dim, waves, depth

    def fitted(self, rows: Sequence[AttentionRow], tiles: Sequence[int] = _TILES) -> Kernel:
        """This kernel with the coefficients, and the tile of `tiles`, that fit best. Raises FitError."""
        fits = [msgspec.structs.replace(self, tile=tile)._with_coefficients(rows) for tile in tiles]
        return min(fits, key=lambda kernel: kernel.error(rows))

    def error(self, rows: Sequence[AttentionRow]) -> float:
        """Mean relative error on `rows`."""
        predicted = (self.seconds(row.batch, row.heads) for row in rows)
        return mean_error(predicted, (row.seconds for row in rows))

    def _with_coefficients(self, rows: Sequence[AttentionRow]) -> Kernel:
        features = [self.features(row.batch, row.heads) for row in rows]
        names = ("request_s", "call_s", "key_s", "wave_s", "wave_key_s")
        values = nonnegative(features, [row.seconds for row in rows])
        return msgspec.structs.replace(self, **dict(zip(names, values, strict=True)))


class PrefillAttention(msgspec.Struct, frozen=True, kw_only=True):
    """The kernels of an engine: a request goes to the first that takes it.

    `pads_query`: the engine computes the queries of the prefix again, as SGLang's torch_native does.
    """

    kernels: tuple[Kernel, ...]
    pads_query: bool = False

    def seconds(self, batch: Sequence[Request], heads: Heads) -> float:
        """One layer, `batch` of (cached, new) tokens. Raises FitError for a request that no kernel takes."""
        by_kernel: dict[int, list[Request]] = {}
        for cached, new in batch:
            request = (0, cached + new) if self.pads_query else (cached, new)
            by_kernel.setdefault(self._kernel_of(request), []).append(request)
        return sum(self.kernels[number].seconds(requests, heads) for number, requests in by_kernel.items())

    def fit(self, rows: Sequence[AttentionRow]) -> PrefillAttention:
        """The same kernels, each fitted on the rows whose requests it takes all."""
        if self.pads_query:
            rows = [row._replace(batch=tuple((0, sum(request)) for request in row.batch)) for row in rows]
        by_kernel: dict[int, list[AttentionRow]] = {number: [] for number in range(len(self.kernels))}
        for row in rows:
            numbers = {self._kernel_of(request) for request in row.batch}
            if len(numbers) == 1:
                by_kernel[numbers.pop()].append(row)
        kernels = tuple(self.kernels[number].fitted(own_rows) for number, own_rows in by_kernel.items())
        return msgspec.structs.replace(self, kernels=kernels)

    def error(self, rows: Sequence[AttentionRow]) -> float:
        """Mean relative error on `rows`."""
        predicted = (self.seconds(row.batch, row.heads) for row in rows)
        return mean_error(predicted, (row.seconds for row in rows))

    def _kernel_of(self, request: Request) -> int:
        for number, kernel in enumerate(self.kernels):
            if kernel.takes(*request):
                return number
        raise FitError(f"no kernel of the profile takes {request[1]} new tokens on {request[0]} cached")
