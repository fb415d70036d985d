"""A prefix that another instance has: to fetch it, against to compute it again."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

from benchmark.caching.pair import Served
from benchmark.caching.sources import RECOMPUTE, REMOTE
from benchmark.decisions.predicted import NEW, PredictedTimes
from benchmark.decisions.two import PAGE, Two
from sglang_memserve.cluster.errors import ClusterError

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
FETCH, COMPUTE = WAYS = ("fetch", "recompute")
# A difference that is none of chance's.
CLEAR = 0.15
_ACQUAINTED_S = 30.0
_TOKEN_IDS = (1000, 40_000)  # ordinary tokens of any vocabulary


@dataclass(frozen=True)
class FetchPoint:
    """A prefix of `tokens`, under a bound of `bandwidth` bytes a second. Seconds by way.

    `predicted`: until prefill is over; `measured`: until the first token, of each round. `fetches`: what the
    router decides.
    """

    bandwidth: float
    tokens: int
    predicted: dict[str, float]
    fetches: bool
    measured: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def median(self, way: str) -> float:
        return median(self.measured[way])

    @property
    def gained(self) -> float:
        """Seconds by which the fetch was faster."""
        return self.median(COMPUTE) - self.median(FETCH)

    @property
    def expected(self) -> float:
        """Seconds by which it was to be."""
        return self.predicted[COMPUTE] - self.predicted[FETCH]

    @property
    def clear(self) -> bool:
        fast, slow = sorted(self.median(way) for way in WAYS)
        return slow > (1 + CLEAR) * fast

    @property
    def right(self) -> bool:
        """Whether the router decides for the faster one."""
        return self.fetches == (self.gained > 0)


def points(predictions: PredictedTimes, bandwidth: float, lengths: Sequence[int]) -> list[FetchPoint]:
    """Nothing of them is measured yet."""
    return [
        FetchPoint(
            bandwidth,
            tokens,
            {FETCH: predictions.fetch(tokens), COMPUTE: predictions.recompute(tokens)},
            predictions.fetches(tokens),
        )
        for tokens in lengths
    ]


async def measure(two: Two, found: Sequence[FetchPoint], rounds: int, seed: int) -> None:
    """One request at a time, in an order of its own in each round.

    Raises ClusterError, also for a request that was not served as it should have been.
    """
    rng = Random(f"{seed} {found[0].bandwidth}")
    base = drawn(rng, max(point.tokens for point in found))
    await _introduce(two, drawn(rng, 4 * PAGE))
    await two.there.bring(base)
    for number in range(1, rounds + 1):
        for point, way in rng.sample(every := [(point, way) for point in found for way in WAYS], len(every)):
            served = await _ask(two, [*base[: point.tokens], *drawn(rng, NEW)], way)
            point.measured[way].append(served.ttft)
            what = f"round {number} of {rounds}, {point.tokens} tokens at {point.bandwidth / 1e6:.3g} MB/s"
            print(f"{what}, {way}: {1e3 * served.ttft:.0f} ms", file=sys.stderr)


async def _ask(two: Two, prompt: Sequence[int], way: str) -> Served:
    await two.here.settled()
    await two.here.forget()
    served = await two.here.ask(prompt, fetch=way == FETCH)
    if way == FETCH:
        REMOTE.check(len(prompt), len(prompt) - NEW, served)
    else:
        RECOMPUTE.check(len(prompt), 0, served)
    return served


async def _introduce(two: Two, prompt: Sequence[int]) -> None:
    """Until they have heard of each other, and their code is warm."""
    await two.there.bring(prompt)
    deadline = time.monotonic() + _ACQUAINTED_S
    while not (await _first_fetch(two, prompt)):
        if time.monotonic() > deadline:
            raise ClusterError(f"one instance could fetch nothing from the other for {_ACQUAINTED_S:.0f} s")


async def _first_fetch(two: Two, prompt: Sequence[int]) -> int:
    await two.here.forget()
    return (await two.here.ask(prompt, fetch=True)).grown["prompt_tokens_fetched"]


def drawn(rng: Random, count: int) -> list[int]:
    return rng.choices(range(*_TOKEN_IDS), k=count)
