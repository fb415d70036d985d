"""What a cached prefix is worth: TTFT over the cached share of a prompt, by where the prefix is."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import aiohttp

from benchmark.caching.pair import InstancePair, raised
from benchmark.caching.sources import RECOMPUTE, REMOTE, SOURCES, PrefixSource, Tokens
from sglang_memserve.bench.chart import Chart, Panel, Point
from sglang_memserve.bench.clusters import Builder
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.cluster.errors import ClusterError

LENGTHS = (512, 2048, 6144)
PERCENTS = (0, 25, 50, 75, 95)
_LEAST_POOL = 8192
_ACQUAINTED_S = 30.0
_TOKEN_IDS = (1000, 40_000)  # ordinary tokens of any vocabulary


def workload(tokens: int) -> str:
    return f"{tokens} tokens"


def figure_name(percent: int) -> str:
    return f"ttft_ms_{percent}_percent_cached"


def cached_tokens(tokens: int, percent: int, page: int) -> int:
    """In whole pages."""
    return tokens * percent // 100 // page * page


def sources_at(percent: int) -> tuple[PrefixSource, ...]:
    """What is to be measured there.

    Nothing cached is the same request wherever it is not: measured once, and with a hint that is in vain.
    """
    return (
        (RECOMPUTE, REMOTE)
        if percent == 0
        else tuple(source for source in SOURCES if source is not RECOMPUTE)
    )


async def measure(
    rounds: Rounds,
    builder: Builder,
    session: aiohttp.ClientSession,
    lengths: Sequence[int],
    count: int,
    seed: int,
) -> None:
    """Raises ClusterError, also for a request that was not served from where it should have been."""
    page = builder.engine.page_size
    pool = max(_LEAST_POOL, max(lengths) * 4 // 3 // (2 * page) * 2 * page)
    async with raised(builder, session, pool) as pair:
        fillers = [_drawn(Random(f"{seed} filler {n}"), pool // 2) for n in range(2)]
        await _introduce(pair, seed, page)
        for number in range(1, count + 1):
            for tokens in lengths:
                rng = Random(f"{seed} {number} {tokens}")
                cached = {percent: cached_tokens(tokens, percent, page) for percent in PERCENTS}
                await _one_round(rounds, pair, fillers, tokens, cached, rng, f"round {number} of {count}")


async def _one_round(
    rounds: Rounds,
    pair: InstancePair,
    fillers: Sequence[Tokens],
    tokens: int,
    cached_at: Mapping[int, int],
    rng: Random,
    phase: str,
) -> None:
    """All points of one length, in an order of its own; the prompts' beginning is the same for all.

    `cached_at`: how many of the tokens are cached, by percent.
    """
    base = _drawn(rng, tokens)
    await pair.bring(base)
    points = [(percent, source) for percent in PERCENTS for source in sources_at(percent)]
    found: dict[tuple[str, int], float] = {}
    for percent, source in rng.sample(points, len(points)):
        cached = cached_at[percent]
        prefix, rest = base[:cached], _drawn(rng, tokens - cached)
        await source.arrange(pair, prefix, fillers)
        served = await pair.ask([*prefix, *rest], fetch=source.fetches)
        source.check(tokens, cached, served)
        found[source.name, percent] = 1e3 * served.ttft
        what = f"{phase}, {tokens} tokens, {percent} % cached, {source.name}"
        print(f"{what}: {1e3 * served.ttft:.0f} ms", file=sys.stderr)
    for source in SOURCES:
        for percent in PERCENTS:
            if (source.name, percent) in found:
                name, ttft = figure_name(percent), found[source.name, percent]
                rounds.note(workload(tokens), source.name, **{name: ttft})


async def _introduce(pair: InstancePair, seed: int, page: int) -> None:
    """Until the instances have heard of each other, and their code is warm."""
    prompt = _drawn(Random(f"{seed} first"), 4 * page)
    await pair.bring(prompt)
    deadline = time.monotonic() + _ACQUAINTED_S
    while time.monotonic() < deadline:
        await pair.forget()
        if (await pair.ask(prompt, fetch=True)).grown["prompt_tokens_fetched"]:
            return
        await asyncio.sleep(0.5)
    raise ClusterError(f"prefill could fetch nothing from decode for {_ACQUAINTED_S:.0f} s")


def figure(results: Mapping[str, Any], where: str) -> Chart:
    """Medians and spread of `results`, which are as Rounds gives them. Raises ValueError for none.

    Lines begin where nothing is cached: there all but a fetch in vain are the same request. That of recompute
    is level, as it does not hang on what is cached.
    """
    panels = [
        Panel(
            x_label="share of the prompt that is cached (%)",
            y_label=f"TTFT (ms), prompts of {tokens:,} tokens",
            curves=_curves(results, tokens),
            x_scale="linear",
        )
        for tokens in sorted({int(name.split()[0]) for name in results})
    ]
    if not panels:
        raise ValueError("the crossover was not measured")
    return Chart(f"What a cached prefix is worth. {where}", panels)


def _curves(results: Mapping[str, Any], tokens: int) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {source.name: [] for source in SOURCES}
    found = results[workload(tokens)]
    for percent in PERCENTS:
        for source in SOURCES:
            nearest = (source.name, *((RECOMPUTE.name,) if percent == 0 else ()))
            spreads = (found.get(name, {}).get(figure_name(percent)) for name in nearest)
            if spread := next(filter(None, spreads), None):
                curves[source.name].append(Point.of(float(percent), spread))
    if level := curves[RECOMPUTE.name]:
        level.append(level[0]._replace(x=float(PERCENTS[-1])))
    return curves


def _drawn(rng: Random, tokens: int) -> list[int]:
    return rng.choices(range(*_TOKEN_IDS), k=tokens)
