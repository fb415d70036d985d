"""bench_decisions from what was asked to its report."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmark.cost import live
from benchmark.decisions import points
from benchmark.decisions.arguments import CROSSOVER, HOT, DecisionsArguments
from benchmark.decisions.hot import OWN, PREFIX, Heat, heated
from benchmark.decisions.outcome import DecisionsOutcome
from benchmark.decisions.predicted import PredictedTimes, with_transfer
from benchmark.decisions.spread import PRICED, UNPRICED
from benchmark.decisions.two import PAGE, raised
from router.cost import Profile, load_profile
from sglang_memserve.bench.clusters import Builder, EngineSpec, building
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.calibrate.shape import model_shape
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.model import resolve_model

# At the bandwidth in the middle both ways are to be as fast for so many tokens; the others are so far apart.
_MIDDLE_TOKENS, _APART = 512, 4.0
_LEAST_POOL = 16_384
# Of what one instance is predicted to serve of the hot prefix, one request at a time.
_RISING = (0.5, 1.0, 1.5)


async def benchmark(asked: DecisionsArguments) -> None:
    """Measures and prints, also what there is when something fails on the way. Raises ClusterError."""
    engine = EngineSpec(
        model=resolve_model(asked.model),
        attention_backend=asked.attention_backend,
        threads=asked.threads,
        pool_tokens=max(_LEAST_POOL, 2 * max(asked.lengths)),
        page_size=PAGE,
    )
    outcome, failure = DecisionsOutcome(asked), None
    with tempfile.TemporaryDirectory(prefix="bench_decisions.") as folder:
        async with open_session() as session, building(engine, asked.port, asked.log_dir) as builder:
            try:
                await _measure(outcome, builder, session, Path(folder))
            except ClusterError as error:
                failure = error
    if not outcome.empty:
        outcome.publish(failure)
    if failure:
        raise failure


async def _measure(
    outcome: DecisionsOutcome, builder: Builder, session: aiohttp.ClientSession, folder: Path
) -> None:
    asked, engine = outcome.asked, builder.engine
    outcome.profile = profile = await _calibrated(asked, builder, folder)
    bandwidths = asked.bandwidths or _bandwidths(engine, profile, folder)
    for bandwidth in bandwidths:
        file = folder / f"{bandwidth:.0f}.json"
        with_transfer(profile, bandwidth).save(file)
        async with raised(builder, session, round(bandwidth), engine.pool_tokens // 2) as two:
            predictions = PredictedTimes(file, await probe.ask(session, f"{two.here.url}/server_info"))
            if CROSSOVER in asked.parts:
                found = points.points(predictions, bandwidth, asked.lengths)
                await points.measure(two, found, asked.rounds, asked.seed)
                outcome.points += found
            if HOT in asked.parts:
                heat = _heat(asked, predictions, bandwidth, file)
                for policy in (PRICED, UNPRICED) if bandwidth == bandwidths[-1] else (PRICED,):
                    outcome.spreads.append(await heated(builder, two, policy, heat))


async def _calibrated(asked: DecisionsArguments, builder: Builder, folder: Path) -> Profile:
    if asked.profile is not None:
        return load_profile(asked.profile)
    system, file = builder.colocated("calibrated"), folder / "profile.json"
    async with builder.serving(system):
        await live.calibrate(builder, system, file)
    return load_profile(file)


def _bandwidths(engine: EngineSpec, profile: Profile, folder: Path) -> Sequence[float]:
    """One for either way to win, and one between: bytes a second, the highest first."""
    file = folder / "profile.json"
    profile.save(file)
    predictions = PredictedTimes(file, {"model_path": engine.model, "page_size": engine.page_size})
    middle = predictions.bandwidth(_MIDDLE_TOKENS, model_shape(engine.model).kv_token_bytes)
    return (_APART * middle, middle, middle / _APART)


def _heat(asked: DecisionsArguments, predictions: PredictedTimes, bandwidth: float, profile: Path) -> Heat:
    alone = predictions.prefill(PREFIX, OWN)
    rates = asked.rates or tuple(share / alone for share in _RISING)
    return Heat(bandwidth, profile, predictions.prefill(0, PREFIX + OWN), rates, asked.seconds, asked.seed)
