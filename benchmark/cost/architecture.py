"""The fit that the cost model is compared with: a polynomial of whole prefills, without operators."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.cost.attention import Request
from router.cost.fitting import mean_error, nonnegative


class ArchitectureFit(msgspec.Struct, frozen=True):
    """A polynomial in 1, x, y, xy, y^2 of x cached and y new tokens, added up over a batch.

    arXiv 2406.17565, section 6, calls it "arch-level". It holds for the model, device and TP that it was
    fitted on; at another TP its prediction can only be divided.
    """

    coefficients: tuple[float, ...]

    @classmethod
    def fit(cls, batches: Sequence[Sequence[Request]], seconds: Sequence[float]) -> ArchitectureFit:
        """From whole prefills of `batches` of (cached, new) tokens. Raises FitError."""
        return cls(tuple(nonnegative([_features(batch) for batch in batches], seconds)))

    def prefill_seconds(self, batch: Sequence[Request], times_tp: int = 1) -> float:
        """Seconds of a prefill on `times_tp` times the ranks of the fit, taken to scale with their number."""
        terms = zip(self.coefficients, _features(batch), strict=True)
        return sum(coefficient * value for coefficient, value in terms) / times_tp

    def error(self, batches: Sequence[Sequence[Request]], seconds: Sequence[float]) -> float:
        """Mean relative error."""
        return mean_error(map(self.prefill_seconds, batches), seconds)


def _features(batch: Sequence[Request]) -> tuple[float, ...]:
    return (
        1.0,
        float(sum(x for x, _ in batch)),
        float(sum(y for _, y in batch)),
        float(sum(x * y for x, y in batch)),
        float(sum(y * y for _, y in batch)),
    )
