"""bench_caching from what was asked to its report."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from benchmark.caching import crossover
from benchmark.caching.arguments import CachingArguments
from benchmark.caching.duels import Duels
from benchmark.caching.outcome import CachingOutcome
from benchmark.caching.parts import CROSSOVER, PARTS, PEER, PIVOT
from benchmark.device import GPU_FLAGS, gpus_of
from sglang_memserve.bench.chart import require_matplotlib
from sglang_memserve.bench.clusters import building
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving import arms as known
from sglang_memserve.bench.serving import inputs
from sglang_memserve.bench.serving.arms import Arm, BenchTarget
from sglang_memserve.bench.serving.benchmark import (
    MODEL_S,
    described,
    engine_of,
    fit_together,
    label,
)
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.bench.serving.options import GPU_LOAD, BenchOptions
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.local import read_model
from sglang_memserve.model import ModelInfo


async def benchmark(asked: CachingArguments) -> None:
    """Measures and prints, also what there is when something fails on the way. Raises ClusterError."""
    options, peers = asked.options, StockPeers(asked.options.peers)
    if any(PEER in asked.against(part) for part in asked.parts):
        peers.require()
    if options.plot:
        require_matplotlib()
    gpus = gpus_of(asked.device)
    model = await read_model(options.model, MODEL_S)
    engine = engine_of(options, model, bool(gpus))
    if gpus:
        engine = replace(engine, gpus=tuple(gpus), extra=(*engine.extra, *GPU_FLAGS))
    outcome, failure = CachingOutcome(asked, described(options, engine)), None
    async with open_session() as session, building(engine, options.port, options.log_dir) as builder:

        def start_arms(chosen: Sequence[Arm]) -> AbstractAsyncContextManager[list[BenchTarget]]:
            return known.serving(chosen, builder, peers)

        duels = Duels(session, start_arms, outcome.duels, outcome.notes)
        try:
            for name in asked.parts:
                if name == CROSSOVER:
                    points = outcome.crossover
                    await crossover.measure(
                        points, builder, session, asked.lengths, options.rounds, asked.seed or 0
                    )
                else:
                    await _fight(name, asked, duels, outcome, model, bool(gpus))
        except ClusterError as error:
            failure = error
    if outcome.empty and failure:
        raise failure
    outcome.publish(ended=failure)
    if failure:
        raise failure


async def _fight(
    name: str, asked: CachingArguments, duels: Duels, outcome: CachingOutcome, model: ModelInfo, gpus: bool
) -> None:
    options, partners = options_of(name, asked, gpus), asked.against(name)
    made = inputs.make(options, GPU_LOAD if gpus else PARTS[name].load, Path(model.path))
    workloads = {label(workload, rate): workload for rate, workload in made.items()}
    outcome.workloads[name] = workloads
    outcome.rates |= {label(workload, rate): rate for rate, workload in made.items() if rate is not None}
    arms = [known.named(partner) for partner in partners]
    two = [known.named(PIVOT), max(arms, key=lambda arm: arm.instances)]
    await duels.fight(name, partners, workloads, options, fit_together(options, two, model))


def options_of(name: str, asked: CachingArguments, gpus: bool) -> BenchOptions:
    """Those of `memserve bench` for a part: its own load, where there is no GPU."""
    part = PARTS[name]
    seed = part.seed if asked.seed is None else asked.seed
    options = replace(asked.options, workload=part.workload, seed=seed, sessions=asked.sessions)
    if gpus:
        return options
    sessions = part.load.sessions if asked.sessions is None else asked.sessions
    return replace(options, sessions=sessions, rates=part.rates or (part.load.rate,), scale=part.load.scale)
