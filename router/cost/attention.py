"""Attention of a prefill: bound by computing, in waves of tiles of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.cost.fitting import FitError, mean_error, nonnegative

# A request of a batch: tokens whose KV is there, and tokens to compute.
Request = tuple[int, int]
_TILES = (16, 32, 64, 128)


class Heads(NamedTuple):
    """One rank's share: query heads, KV heads, and the dimension of each."""

    query: int
    kv: int
    dim: int


class AttentionRow(NamedTuple):
    """One layer's attention of a batch took `seconds`."""

    batch: tuple[Request, ...]
    heads: Heads
    seconds: float


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """One way of an engine to compute it, for the requests that it `takes`.

    A tile is `tile` queries of one head; `units` of them run at a time, eta = ceil(tiles / units) waves
    (paper.md A8 (a)). A tile's time is linear in the keys that it sees: the prefix and, on average, half of
    the new tokens (`causal`), or all of them under a mask. Summed over the tiles that is the x^2(1 - y^2) of
    paper.md A8, for a prompt x with cached ratio y. Reading K and V, each request and the launch are added.
    """

    tile: int
    units: int
    causal: bool = True
    with_prefix: bool | None = None
    most_scores: int | None = None
    request_s: float = 0.0
    call_s: float = 0.0
    key_s: float = 0.0
    wave_s: float = 0.0
    wave_key_s: float = 0.0

    def takes(self, cached: int, new: int) -> bool:
        """`with_prefix`: only requests with (without) one; `most_scores`: up to so many new x all tokens."""
        if self.with_prefix is not None and self.with_prefix != (cached > 0):
            return False
        return self.most_scores is None or new * (cached + new) <= self.most_scores

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
        """This kernel with the coefficients, and of `tiles` the one, that fit best. Raises FitError."""
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

    `pads_query`: the engine computes the prefix's queries again (SGLang's torch_native does).
    """

    kernels: tuple[Kernel, ...]
    pads_query: bool = False

    def seconds(self, batch: Sequence[Request], heads: Heads) -> float:
        """One layer's, for `batch` of (cached, new) tokens. Raises FitError if no kernel takes a request."""
        by_kernel: dict[int, list[Request]] = {}
        for cached, new in batch:
            request = (0, cached + new) if self.pads_query else (cached, new)
            by_kernel.setdefault(self._kernel_of(request), []).append(request)
        return sum(self.kernels[number].seconds(part, heads) for number, part in by_kernel.items())

    def fit(self, rows: Sequence[AttentionRow]) -> PrefillAttention:
        """The same kernels, each fitted on the rows of one request (or of one kernel) that it takes."""
        if self.pads_query:
            rows = [row._replace(batch=tuple((0, sum(request)) for request in row.batch)) for row in rows]
        by_kernel: dict[int, list[AttentionRow]] = {number: [] for number in range(len(self.kernels))}
        for row in rows:
            numbers = {self._kernel_of(request) for request in row.batch}
            if len(numbers) == 1:
                by_kernel[numbers.pop()].append(row)
        kernels = tuple(self.kernels[number].fitted(part) for number, part in by_kernel.items())
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
