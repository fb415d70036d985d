"""Lengths: drawn from published quantiles, and scaled for small machines."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from random import Random


class Quantiles:
    """A distribution of positive values, given by some of its quantiles and log-linear between them."""

    def __init__(self, values: Mapping[float, float]) -> None:
        """`values`: by share, ascending from 0 to 1."""
        self._shares = list(values)
        self._logs = [math.log(value) for value in values.values()]

    def at(self, share: float) -> float:
        """The value that `share` (0 to 1) of all do not exceed."""
        after = min(bisect_right(self._shares, share), len(self._shares) - 1)
        low, high = self._shares[after - 1], self._shares[after]
        weight = (share - low) / (high - low)
        return math.exp((1 - weight) * self._logs[after - 1] + weight * self._logs[after])

    def draw(self, rng: Random) -> float:
        return self.at(rng.random())


class CorrelatedDraws:
    """Correlated draws, by normal scores with a common part. Each alone follows its distribution."""

    def __init__(self, rng: Random, likeness: float) -> None:
        """`likeness`: the correlation (0 to 1) between two of the scores."""
        self._rng = rng
        self._common = math.sqrt(likeness) * rng.gauss(0, 1)
        self._own = math.sqrt(1 - likeness)

    def draw(self, quantiles: Quantiles) -> float:
        score = self._common + self._own * self._rng.gauss(0, 1)
        return quantiles.at((1 + math.erf(score / math.sqrt(2))) / 2)


class Scaler:
    """Whole tokens out of scaled lengths.

    What rounding gives or takes is settled with the next length of the same kind. So each kind's total stays
    at `scale` times what it was, unless even one token each is more than that.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._owed: dict[str, float] = defaultdict(float)

    def __call__(self, kind: str, length: float) -> int:
        exact = max(1.0, length) * self._scale + self._owed[kind]
        given = max(1, round(exact))
        self._owed[kind] = exact - given
        return given
