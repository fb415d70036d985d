"""How far predictions are off lately, instance by instance: a slow correction that cannot run away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# As a share of what an observation moves, while each instance is observed once.
_DRIFT = 0.2


@dataclass(frozen=True)
class Residual:
    """`factor` is what predictions are multiplied by; `error` the mean of |observed / corrected - 1|."""

    factor: float = 1.0
    error: float = 0.0
    observations: int = 0


@dataclass
class Residuals:
    """By instance. Each observation moves a factor by `rate` of its own distance, in logarithms.

    One observation counts for at most `most` times too much or too little, and so does the factor: an
    instance that stood still for a while is not priced out for good. For the same reason those that are not
    observed drift back to 1 while others are. `fixed` is what a request takes beside its prefill, seconds:
    of a prefill that takes no longer, half of the distance counts. `factors` are those of all that were
    observed.
    """

    rate: float = 0.05
    most: float = 2.0
    fixed: float = 0.05
    factors: dict[str, float] = field(default_factory=dict, init=False)
    _known: dict[str, Residual] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate = {self.rate}: above 0 and at most 1 is needed")
        if self.most < 1:
            raise ValueError(f"most = {self.most}: 1 or more is needed")

    def corrected(self, instance: str, predicted: float) -> float:
        """Seconds, as this instance is likely to take."""
        return predicted * self.factors.get(instance, 1.0)

    def observe(self, instance: str, predicted: float, observed: float) -> None:
        """`predicted` is not corrected. A time that is not above 0 (a clock set back) is passed over."""
        if not (0 < predicted < math.inf and 0 < observed < math.inf):
            return
        known = self._known.get(instance, Residual())
        ratio = min(max(observed / predicted, 1 / self.most), self.most)
        before = self.factors.get(instance, 1.0)
        factor = before * (ratio / before) ** (self.rate * predicted / (predicted + self.fixed))
        error = abs(observed / (predicted * before) - 1)
        # The first ones count in full, so that the mean is one from the start.
        weight = max(self.rate, 1 / (known.observations + 1))
        self._drift()
        self.factors[instance] = factor
        self._known[instance] = Residual(
            factor, known.error + weight * (error - known.error), known.observations + 1
        )

    def _drift(self) -> None:
        kept = 1 - _DRIFT * self.rate / max(1, len(self.factors))
        for instance, factor in self.factors.items():
            self.factors[instance] = factor**kept

    def forget(self, instance: str) -> None:
        """It has left, or is another one under this name."""
        self._known.pop(instance, None)
        self.factors.pop(instance, None)

    def exported(self) -> Mapping[str, Residual]:
        """All of them, as numbers to show."""
        return {name: replace(one, factor=self.factors[name]) for name, one in self._known.items()}
