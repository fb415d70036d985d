"""Where a prompt's prefix can come from: how that is arranged, and how it is seen that it did."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmark.caching.pair import InstancePair, Served
from sglang_memserve.cluster.errors import ClusterError

Tokens = Sequence[int]
# Each token of a prompt adds to one of these.
_HBM, _DRAM, _FETCHED, _COMPUTED = _COUNTERS = (
    "prompt_tokens_from_hbm",
    "prompt_tokens_from_dram",
    "prompt_tokens_fetched",
    "prompt_tokens_computed",
)


@dataclass(frozen=True)
class PrefixSource:
    """`arrange(pair, prefix, fillers)`: prefill has the prefix there, and nowhere nearer. `counter`: of
    prefill's, to which such tokens add. `fetches`: with a hint.
    """

    name: str
    arrange: Callable[[InstancePair, Tokens, Sequence[Tokens]], Awaitable[None]]
    counter: str
    fetches: bool = False

    def check(self, tokens: int, cached: int, served: Served) -> None:
        """Raises ClusterError unless a prompt of `tokens` was served as meant."""
        found = {name: served.grown[name] for name in _COUNTERS}
        expected = dict.fromkeys(_COUNTERS, 0)
        expected[self.counter] += cached
        expected[_COMPUTED] += tokens - cached
        if found != expected:
            raise ClusterError(
                f"{self.name}: a prompt of {tokens} tokens, {cached} of them cached, was not served as "
                f"meant: counters have grown by {found}, not {expected}"
            )


async def _in_hbm(pair: InstancePair, prefix: Tokens, fillers: Sequence[Tokens]) -> None:
    await pair.bring(prefix)


async def _in_dram(pair: InstancePair, prefix: Tokens, fillers: Sequence[Tokens]) -> None:
    """The fillers are as much as HBM holds: what was there before them is evicted."""
    await pair.bring(prefix)
    for filler in fillers:
        await pair.bring(filler)


async def _at_decode(pair: InstancePair, prefix: Tokens, fillers: Sequence[Tokens]) -> None:
    if prefix:
        await pair.bring(prefix)
    await pair.forget()


async def _nowhere(pair: InstancePair, prefix: Tokens, fillers: Sequence[Tokens]) -> None:
    await pair.forget()


HBM = PrefixSource("HBM hit", _in_hbm, _HBM)
DRAM = PrefixSource("DRAM hit", _in_dram, _DRAM)
REMOTE = PrefixSource("remote fetch", _at_decode, _FETCHED, fetches=True)
RECOMPUTE = PrefixSource("recompute", _nowhere, _COMPUTED)
SOURCES = (RECOMPUTE, HBM, DRAM, REMOTE)
