"""What is bound by bytes moved, and what is constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.cost.fitting import mean_error, nonnegative
from router.cost.gemm import Amount


class StreamRow(NamedTuple):
    """Moving `bytes` in `items` pieces (requests, tokens: whatever is counted) took `seconds`."""

    bytes: int
    seconds: float
    items: int = 0


class MemoryBound(msgspec.Struct, frozen=True, kw_only=True):
    """Decode attention, norms, embeddings, copies: linear in bytes read and written (paper.md A8 (b), (c)).

    Over a link (paper.md A9), that is bytes over bandwidth, with what a call takes beside them.
    """

    call_s: float = 0.0
    item_s: float = 0.0
    byte_s: float = 0.0

    def seconds(self, moved: Amount, items: int = 0) -> Amount | float:
        """`moved` in bytes; may be an array, and so is the answer then."""
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
    """A forward of `requests` requests with `tokens` new tokens in all took `seconds`.

    `operators_s` of these are what the operators are predicted to take.
    """

    requests: int
    tokens: int
    operators_s: float
    seconds: float


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine adds to its operators: scheduling, launches, Python (paper.md A8 (c), B).

    By forward, request and new token; `scale` is how much longer the operators take inside the engine, where
    they find other things in the caches than when measured one by one.
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
        """From whole forwards; no part is below 0. Raises FitError."""
        features = [(1.0, float(row.requests), float(row.tokens), row.operators_s) for row in rows]
        forward, request, token, scale = nonnegative(features, [row.seconds for row in rows])
        return cls(forward_s=forward, request_s=request, token_s=token, scale=scale)

    def error(self, rows: Sequence[OverheadRow]) -> float:
        """Mean relative error on `rows`."""
        predicted = (self.seconds(*row[:3]) for row in rows)
        return mean_error(predicted, (row.seconds for row in rows))
