"""How far predictions are off lately, for each instance: a slow, bounded correction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# As a share of what an observation moves, while each instance is observed once.
_DRIFT = 0.2


@dataclass(frozen=True)
class Residual:
    """`factor`: what predictions are multiplied by. `error`: the mean of |observed / corrected - 1|."""

    factor: float = 1.0
    error: float = 0.0
    observations: int = 0


@dataclass
class Residuals:
    """A factor for each instance, by its URL. An observation moves it by `rate` of its distance (logarithms).

    Factors stay within 1 / `max_factor` and `max_factor`, and no observation counts for more: an instance
    that stood still for a while must get requests again. For the same reason the factors of instances that
    are not observed drift back to 1 while others are. `fixed_s`: seconds that a request takes beside its
    prefill; of a prefill that takes no longer, half of the distance counts. `factors`: of all instances that
    were observed.
    """

    rate: float = 0.05
    max_factor: float = 2.0
    fixed_s: float = 0.05
    factors: dict[str, float] = field(default_factory=dict, init=False)
    _known: dict[str, Residual] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate = {self.rate}: above 0 and at most 1 is needed")
        if self.max_factor < 1:
            raise ValueError(f"max_factor = {self.max_factor}: 1 or more is needed")

    def observe(self, instance: str, predicted: float, observed: float) -> None:
        """Both in seconds; `predicted` is not corrected. A time that is not above 0 is ignored."""
        if not (0 < predicted < math.inf and 0 < observed < math.inf):
            return
        known = self._known.get(instance, Residual())
        ratio = min(max(observed / predicted, 1 / self.max_factor), self.max_factor)
        before = self.factors.get(instance, 1.0)
        factor = before * (ratio / before) ** (self.rate * predicted / (predicted + self.fixed_s))
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
        """It has left, or another one has its name."""
        self._known.pop(instance, None)
        self.factors.pop(instance, None)

    def exported(self) -> Mapping[str, Residual]:
        """All of them, as numbers to show."""
        return {name: replace(residual, factor=self.factors[name]) for name, residual in self._known.items()}
