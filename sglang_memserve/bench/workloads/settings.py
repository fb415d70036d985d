"""Settings of every generator and loader."""

import math
from dataclasses import dataclass
from itertools import pairwise

from sglang_memserve.bench.workloads.errors import refused

PAPER_CONTEXT = 4096
"""Tokens that Llama-2-13B, the paper's model, attends to."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Lengths are in tokens of the source, before `scale`. Raises WorkloadError for a value that cannot be.

    `sessions`: how many; of a file at most so many, or all of it for None.
    `rate`: sessions a second. None: the times of a trace that has them, else 1. A trace's times are stretched
    to `rate`, which keeps its bursts; otherwise sessions arrive at random (Poisson).
    `arrivals`: seconds at which the sessions arrive instead, in order, one for each.
    `scale`: over 0, at most 1. All lengths are multiplied by it, none falls under one token.
    `max_context`: a session ends before the first turn whose prompt and answer pass it.
    `vocabulary`: token ids are drawn from the first of these on, up to and without the second.
    """

    sessions: int | None = 100
    rate: float | None = None
    arrivals: tuple[float, ...] | None = None
    seed: int = 0
    scale: float = 1.0
    max_context: int | None = None
    vocabulary: tuple[int, int] = (1000, 40000)

    def __post_init__(self) -> None:
        low, high = self.vocabulary
        times = self.arrivals or ()
        self._require("sessions", self.sessions is None or self.sessions >= 1, "expected at least 1, or None")
        self._require(
            "rate", self.rate is None or 0 < self.rate < math.inf, "expected over 0 a second, or None"
        )
        self._require(
            "arrivals",
            all(0 <= a <= b < math.inf for a, b in pairwise((0, *times))),
            "expected seconds in order",
        )
        self._require("scale", 0 < self.scale <= 1, "expected over 0 and at most 1")
        self._require(
            "max_context", self.max_context is None or self.max_context >= 2, "expected at least 2, or None"
        )
        self._require("vocabulary", 0 <= low < high, "expected two token ids, the lower one first")

    def _require(self, field: str, met: bool, why: str) -> None:
        if not met:
            raise refused(type(self).__name__, field, getattr(self, field), why)

    @property
    def context(self) -> float:
        """Tokens that a prompt and its answer may have together, after `scale`."""
        return math.inf if self.max_context is None else self.max_context * self.scale
