"""How a fetch and a recompute are measured, with instances that are none."""

import asyncio
from collections import Counter

import pytest

from benchmark.caching.pair import Served
from benchmark.decisions.points import COMPUTE, FETCH, FetchPoint, measure
from benchmark.decisions.two import PAGE, Two
from sglang_memserve.cluster.errors import ClusterError


class Ends:
    """As far as the benchmark knows a Pair: what the other end has is fetched, if `works`."""

    def __init__(self, works=True):
        self.has, self.other, self.works, self.asked = [], None, works, []

    async def ask(self, tokens, fetch=False):
        self.asked.append((tuple(tokens), fetch))
        whole = len(tokens) // PAGE * PAGE
        came = self.common(tokens) if fetch and self.works else 0
        self.has.append(tokens[:whole])
        counts = {"prompt_tokens_fetched": came, "prompt_tokens_computed": len(tokens) - came}
        return Served(0.1 if fetch else 0.2, Counter(counts))

    async def bring(self, tokens):
        await self.ask(tokens)

    async def settled(self):
        pass

    async def forget(self):
        self.has.clear()

    def common(self, tokens):
        """Of what the other one has, in whole pages and never the last token."""
        shared = (
            next((n for n, (a, b) in enumerate(zip(tokens, has, strict=False)) if a != b), len(has))
            for has in self.other.has
        )
        return min(max(shared, default=0), len(tokens) - 1) // PAGE * PAGE


@pytest.fixture
def ends():
    here, there = Ends(), Ends()
    here.other, there.other = there, here
    return here, there


def run(ends, points, rounds=2):
    asyncio.run(measure(Two(ends[0], ends[1], ()), points, rounds, seed=0))


def point(tokens):
    return FetchPoint(1e7, tokens, {}, True)


def test_each_point_is_measured_either_way_in_each_round(ends):
    points = [point(64), point(128)]
    run(ends, points)
    assert all(point.measured == {FETCH: [0.1, 0.1], COMPUTE: [0.2, 0.2]} for point in points)
    prompts = [tokens for tokens, _ in ends[0].asked]
    assert len(set(prompts)) == len(prompts)
    assert len({tokens[:64] for tokens in prompts if len(tokens) > 64}) == 1


def test_what_was_to_be_fetched_and_was_not_is_no_point(ends):
    async def had_nothing(tokens):
        await ends[1].ask(tokens[:PAGE])

    run(ends, [point(64)], rounds=1)
    ends[1].bring = had_nothing
    ends[1].has.clear()
    with pytest.raises(ClusterError, match="remote fetch: a prompt of 80 tokens, 64 of them cached"):
        run(ends, [point(64)], rounds=1)


def test_instances_that_never_fetch_end_the_benchmark(ends, monkeypatch):
    monkeypatch.setattr("benchmark.decisions.points._ACQUAINTED_S", 0.0)
    ends[0].works = False
    with pytest.raises(ClusterError, match="could fetch nothing"):
        run(ends, [point(64)])
