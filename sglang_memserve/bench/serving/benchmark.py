"""`memserve bench` from its options to its report."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import aiohttp

from mempool.host_memory import available_memory
from sglang_memserve.bench.chart import require_matplotlib
from sglang_memserve.bench.clusters import EngineSpec, building
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving import arms as known
from sglang_memserve.bench.serving import inputs, pace
from sglang_memserve.bench.serving.apis import RequestSettings
from sglang_memserve.bench.serving.arms import INSTANCE_BYTES, METRICS, Arm, BenchTarget
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.bench.serving.measure import Slo
from sglang_memserve.bench.serving.options import CPU_LOAD, GPU_LOAD, BenchOptions, Load
from sglang_memserve.bench.serving.outcome import BenchOutcome
from sglang_memserve.bench.serving.rounds import Comparison, ComparisonPlan
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.cluster import share
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.local import read_model
from sglang_memserve.cpu import attention as cpu_attention
from sglang_memserve.machine import machine_description
from sglang_memserve.model import ModelInfo

MODEL_S = 600.0
_GPU_ATTENTION = "flashinfer"


async def benchmark(options: BenchOptions) -> None:
    """Measures and prints, also what there is when it is interrupted. Raises ClusterError."""
    arms = [*map(known.named, options.arms), *map(known.running, options.urls)]
    if any(arm.needs_peers for arm in arms):
        StockPeers(options.peers).require()
    if options.plot:
        require_matplotlib()
    inputs.check(options)
    gpus = bool(share.visible_gpus())
    model = await read_model(options.model, MODEL_S) if options.arms else None
    engine = engine_of(options, model, gpus) if model else None
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(options.api_key))
        load = await _load(options, arms, session, gpus)
        made = inputs.make(options, load, Path(model.path) if model else None)
        workloads = {label(workload, rate): workload for rate, workload in made.items()}
        started = building(engine, options.port, options.log_dir) if engine else nullcontext()
        builder = await stack.enter_async_context(started)

        def start_arms(chosen: Sequence[Arm]) -> AbstractAsyncContextManager[list[BenchTarget]]:
            return known.serving(chosen, builder, StockPeers(options.peers))

        together = fit_together(options, arms, model)
        comparison = Comparison(plan_of(options, workloads, together), session, start_arms)
        failure = await _measured(comparison, arms)
        # While the servers still run: stopping them takes time, and may be cut short.
        BenchOutcome(
            comparison.laps,
            comparison.notes,
            workloads,
            {label(workload, rate): rate for rate, workload in made.items()},
            comparison.plan.slo,
            arms,
            described(options, engine) | {"together": together},
        ).publish(options)
    if failure:
        raise failure


async def _load(
    options: BenchOptions, arms: Sequence[Arm], session: aiohttp.ClientSession, gpus: bool
) -> Load:
    """The load for what the options leave open: one that the weakest of the arms can bear."""
    load, reason = (GPU_LOAD if gpus else CPU_LOAD), ""
    running = [arm for arm in arms if arm.kind == "running"]
    if running and not options.says_load and (gpus or not options.arms):
        load, reason = await pace.load_for(options, running, session)
    if reason:
        flags = "--sessions, --rates and --scale say otherwise"
        print(f"load: {load}, for {reason} ({flags})", file=sys.stderr)
    return load


async def _measured(comparison: Comparison, arms: Sequence[Arm]) -> BaseException | None:
    """Runs the comparison. Returns what ended it early, or raises that where nothing was measured before."""
    try:
        await comparison.run(arms)
    except (ClusterError, asyncio.CancelledError) as error:
        if not comparison.laps:
            raise
        comparison.notes.append(f"ended early: {str(error) or 'interrupted'}")
        return error
    return None


def label(workload: Workload, rate: float | None) -> str:
    return f"{workload.name}, " + ("its own times" if rate is None else f"{rate:g} sessions a second")


def plan_of(options: BenchOptions, workloads: dict[str, Workload], together: bool) -> ComparisonPlan:
    def seconds(limit_ms: float | None) -> float | None:
        return None if limit_ms is None else limit_ms / 1e3

    return ComparisonPlan(
        workloads=workloads,
        rounds=options.rounds,
        api=options.api,
        asking=RequestSettings(options.request_model, options.ignore_eos),
        slo=Slo(seconds(options.slo_ttft), seconds(options.slo_tpot)),
        request_s=options.timeout,
        run_s=options.run_timeout,
        together=together,
        seed=options.seed,
    )


def engine_of(options: BenchOptions, model: ModelInfo, gpus: bool) -> EngineSpec:
    """What every instance of every started arm has in common."""
    return EngineSpec(
        model=model.path,
        attention_backend=options.attention_backend or (_GPU_ATTENTION if gpus else cpu_attention.NAME),
        threads=options.threads,
        pool_tokens=options.pool_tokens,
        page_size=options.page_size,
        extra=(METRICS, *options.extra),
    )


def fit_together(options: BenchOptions, arms: Sequence[Arm], model: ModelInfo | None) -> bool:
    """Whether all arms run at once, so that none has to be started between runs."""
    if model is None or options.up != "auto":
        return options.up != "in-turn"
    each = INSTANCE_BYTES + model.weight_bytes + options.pool_tokens * model.kv_bytes_per_token
    need, free = each * sum(arm.instances for arm in arms), available_memory()
    fits = need <= free
    how = "all arms are up together" if fits else "each arm is started for its turn of each round"
    print(f"{how}: they need some {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free", file=sys.stderr)
    return fits


def described(options: BenchOptions, engine: EngineSpec | None) -> dict[str, Any]:
    """The machine, the versions, and what was held constant."""
    values = {field.name: getattr(options, field.name) for field in fields(options) if field.repr}
    return {
        **machine_description("sglang", "torch", "sglang-memserve"),
        **StockPeers(options.peers).versions(),
        "engine": engine and asdict(engine),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in values.items()},
    }
