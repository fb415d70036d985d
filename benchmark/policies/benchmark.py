"""bench_policies from what was asked to its report."""

from dataclasses import replace
from pathlib import Path

from benchmark.policies import contenders
from benchmark.policies.arguments import PoliciesArguments
from benchmark.policies.cluster import ROLES, raised
from benchmark.policies.outcome import PoliciesOutcome
from benchmark.policies.sessions import USERS, duplicated
from mempool.host_memory import available_memory
from sglang_memserve.bench.chart import require_matplotlib
from sglang_memserve.bench.clusters import building
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving import inputs
from sglang_memserve.bench.serving.arms import INSTANCE_BYTES
from sglang_memserve.bench.serving.benchmark import MODEL_S, described, engine_of, label, plan_of
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.bench.serving.options import GPU_LOAD
from sglang_memserve.bench.serving.rounds import Comparison
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.cluster import share
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.local import read_model
from sglang_memserve.model import ModelInfo


async def benchmark(asked: PoliciesArguments) -> None:
    """Measures and prints, also what there is when something fails on the way. Raises ClusterError."""
    options, peers = asked.options, StockPeers(asked.options.peers)
    if contenders.PEER in asked.contenders:
        peers.require()
    if options.plot:
        require_matplotlib()
    model = await read_model(options.model, MODEL_S)
    _require_memory(options.pool_tokens, model)
    workload = asked_for(asked, Path(model.path))
    name = label(workload, asked.rate)
    engine = engine_of(options, model, bool(share.visible_gpus()))
    plan = plan_of(options, {name: workload}, together=False)
    plan = replace(plan, asking=replace(plan.asking, names_sessions=True))
    failure = None
    async with (
        open_session() as session,
        building(engine, options.port, options.log_dir) as builder,
        raised(builder, session, peers, options.records, asked.profile) as cluster,
    ):
        await cluster.rehearse(len(workload.sessions[0].turns[0].tokens))
        comparison = Comparison(plan, session, cluster.serving)
        try:
            await comparison.run([contenders.arm(name) for name in asked.contenders])
        except ClusterError as error:
            failure = error
    notes = [*comparison.notes, *([f"ended early: {failure}"] if failure else [])]
    if comparison.laps:
        PoliciesOutcome(asked, name, workload, comparison.laps, notes, described(options, engine)).publish()
    if failure:
        raise failure


def asked_for(asked: PoliciesArguments, model: Path) -> Workload:
    """What every router gets. Raises ClusterError."""
    (base,) = inputs.make(asked.options, GPU_LOAD, model).values()
    return duplicated(base, USERS, asked.rate, asked.options.seed)


def _require_memory(pool_tokens: int, model: ModelInfo) -> None:
    each = INSTANCE_BYTES + model.weight_bytes + pool_tokens * model.kv_bytes_per_token
    need, free = each * len(ROLES), available_memory()
    if need > free:
        raise ClusterError(
            f"{len(ROLES)} instances need some {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
            "end what else runs here"
        )
