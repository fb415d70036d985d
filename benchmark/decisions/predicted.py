"""What the router's cost model says of two idle instances, one of which has a prefix that the other lacks."""

from pathlib import Path
from typing import Any

import msgspec

from router.cost import Profile
from router.cost.estimator import CostEstimator
from router.cost.speeds import Speeds
from router.cost.streams import MemoryBound
from router.instances.instance import Instance, Role
from router.instances.server_info import parse_server_info
from router.prefix_tree import Cached

# Of each prompt, what nobody has.
NEW = 16
_ANSWER = 4


def with_transfer(profile: Profile, bandwidth: float) -> Profile:
    """As `memserve calibrate --transfer-gb-s` writes it; in bytes a second."""
    return msgspec.structs.replace(profile, transfer=MemoryBound(byte_s=1 / bandwidth))


class PredictedTimes:
    """Seconds, for prompts of a prefix and NEW tokens more.

    `profile`: a file; `info`: the /server_info of an instance.
    """

    def __init__(self, profile: Path, info: Any) -> None:
        self._estimator = CostEstimator(Speeds(str(profile)))
        self._here, self._there = (Instance(f"http://{name}", Role.COLOCATED) for name in ("here", "there"))
        for instance in (self._here, self._there):
            instance.learn(parse_server_info(info))
        self._speed = self._estimator.speeds.of(self._here)

    def prefill(self, cached: int, new: int) -> float:
        return self._speed.prefill(cached, new)

    def recompute(self, tokens: int) -> float:
        return self.prefill(0, tokens + NEW)

    def fetch(self, tokens: int) -> float:
        return self.beside(tokens) + self._speed.send(tokens)

    def beside(self, tokens: int) -> float:
        """Of a fetch, what no bandwidth makes shorter."""
        return self._speed.fetch(0) + self._speed.swap_in(tokens) + self.prefill(tokens, NEW)

    def fetches(self, tokens: int) -> bool:
        """The router's own decision between the two."""
        cached = {self._there: Cached(tokens, tokens)}
        estimates = self._estimator.estimates(tokens + NEW, _ANSWER, cached)
        estimates.prefill_totals([self._here], None)
        estimate = estimates.of(self._here)
        return estimate is not None and estimate.plan is not None and estimate.plan.fetch is not None

    def bandwidth(self, tokens: int, token_bytes: int) -> float:
        """At which a fetch takes as long as computing: bytes a second."""
        return token_bytes * tokens / (self.recompute(tokens) - self.beside(tokens))
