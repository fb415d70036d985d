"""Memory-bound operators, and the overhead of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.cost.fitting import mean_error, nonnegative
from router.cost.gemm import Amount


class StreamRow(NamedTuple):
    """A measurement: moving `bytes` in `items` pieces (requests or tokens) took `seconds`."""

    bytes: int
    seconds: float
    items: int = 0


class MemoryBound(msgspec.Struct, frozen=True, kw_only=True):
    """Decode attention, norms, embeddings, copies: linear in bytes read and written. Seconds.

    As in arXiv 2406.17565, section 6. Over a link: bytes over bandwidth, and `call_s` for the call.
    """

    call_s: float = 0.0
    item_s: float = 0.0
    byte_s: float = 0.0

    def seconds(self, moved: Amount, items: int = 0) -> Amount | float:
        """`moved`: bytes. If it is an array, so is the result."""
        return self.call_s + items * self.item_s + moved * self.byte_s

    @classmethod
    def fit(cls, rows: Sequence[StreamRow]) -> MemoryBound:
        """Raises FitError."""
        features = [(1.0, float(row.items), float(row.bytes)) for row in rows]
        call, item, byte = nonnegative(features, [row.seconds for row in rows])
        return cls(call_s=call, item_s=item, byte_s=byte)

    def error(self, rows: Sequence[StreamRow]) -> float:
        """Mean relative error on `rows`."""
        predicted = (self.seconds(row.bytes, row.items) for row in rows)
        return mean_error(predicted, (row.seconds for row in rows))


class OverheadRow(NamedTuple):
    """A measurement: a forward of `requests` requests with `tokens` new tokens in all took `seconds`.

    `operators_s`: how long its operators are predicted to take.
    """

    requests: int
    tokens: int
    operators_s: float
    seconds: float


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine adds to its operators: scheduling, launches, Python. Seconds.

    For each forward, request and new token. `scale`: how much longer the operators take inside the engine
    than when they are measured one by one, since they find other data in the processor's caches.
    """

    forward_s: float = 0.0
    request_s: float = 0.0
    token_s: float = 0.0
    scale: float = 1.0

    def seconds(self, requests: int, tokens: int, operators_s: float) -> float:
        """The whole forward."""
        fixed = self.forward_s + requests * self.request_s + tokens * self.token_s
        return fixed + self.scale * operators_s

    @classmethod
    def fit(cls, rows: Sequence[OverheadRow]) -> Overhead:
        """From whole forwards; no coefficient is below 0. Raises FitError."""
        features = [(1.0, float(row.requests), float(row.tokens), row.operators_s) for row in rows]
        forward, request, token, scale = nonnegative(features, [row.seconds for row in rows])
        return cls(forward_s=forward, request_s=request, token_s=token, scale=scale)

    def error(self, rows: Sequence[OverheadRow]) -> float:
        """Mean relative error on `rows`."""
        predicted = (self.seconds(*row[:3]) for row in rows)
        return mean_error(predicted, (row.seconds for row in rows))
