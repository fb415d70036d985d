"""The systems that benchmarks compare: pairs and colocated servers, ours and stock ones."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from mempool.security.cluster_key import ClusterKey
from sglang_memserve.bench import children
from sglang_memserve.bench.peers import ROUND_ROBIN, StockPeers, StockSpec, router_command
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.ports import PortPicker
from sglang_memserve.cluster.spec import InstanceSpec, Role, key_env, router_argv, url_of
from sglang_memserve.cluster.supervisor import Member

START_S = 400.0


@dataclass(frozen=True)
class EngineSpec:
    """What is the same for every instance of every system.

    `threads` are OpenMP's, `pool_tokens` the size of the KV pool, `extra` further flags of SGLang's;
    `cluster_key` is what processes of ours ask each other for. `gpus`: decode has the second of them, all
    others the first; without any, CUDA's own choice is every instance's.
    """

    model: str
    attention_backend: str
    threads: int = 1
    pool_tokens: int = 32_768
    page_size: int = 16
    extra: tuple[str, ...] = ()
    cluster_key: ClusterKey | None = None
    gpus: tuple[int, ...] = ()

    def instance(self, role: Role, ports: PortPicker, *flags: str) -> InstanceSpec:
        """One of ours, on ports of its own, with `flags` of its own."""
        own = ("--attention-backend", self.attention_backend, "--page-size", str(self.page_size))
        return InstanceSpec(
            role=role,
            index=0,
            host=children.HOST,
            port=ports.pick(),
            bootstrap_port=ports.pick() if role == "prefill" else None,
            model=self.model,
            threads=self.threads,
            max_total_tokens=self.pool_tokens,
            gpus=self.gpus[1:2] or self.gpus[:1] if role == "decode" else self.gpus[:1],
            cluster_key=self.cluster_key,
            extra=(*own, *self.extra, *flags),
        )


@dataclass(frozen=True)
class System:
    """Serves at `url`. Without a router, that is its one instance."""

    name: str
    url: str
    instances: tuple[InstanceSpec, ...]
    router: Member | None = None


@dataclass(frozen=True)
class Builder:
    """Makes systems that share nothing but the machine; `logs` is a folder, `session` stays the caller's."""

    engine: EngineSpec
    ports: PortPicker
    logs: Path
    session: aiohttp.ClientSession

    def pair(self, name: str, *prefill_flags: str) -> System:
        """Ours: prefill, decode, router."""
        # One pair leaves nothing to choose, and hints would bring one milestone what another is measured by.
        return self.routed(name, self._pair(prefill_flags), "--policy", ROUND_ROBIN)

    def colocated(self, name: str) -> System:
        """One instance of ours, without a router."""
        spec = self.engine.instance("colocated", self.ports)
        return System(name, spec.url, (spec,))

    def stock_pair(
        self, name: str, peers: StockPeers, *prefill_flags: str, policy: str = ROUND_ROBIN
    ) -> System:
        """The same of stock SGLang over Mooncake's TCP, with sglang-router and a policy of its."""
        pair = [StockSpec.like(spec, peers) for spec in self._pair(prefill_flags)]
        return self.stock_routed(name, pair, peers, policy)

    def stock_colocated(self, name: str, peers: StockPeers) -> System:
        """One stock server, without a router. Needs no peer to be installed."""
        spec = StockSpec.like(self.engine.instance("colocated", self.ports), peers)
        return System(name, spec.url, (spec,))

    def routed(self, name: str, instances: Sequence[InstanceSpec], *flags: str) -> System:
        """`instances` of whatever kind behind our router."""
        port = self.ports.pick()
        argv = [*router_argv(children.HOST, port, instances), *flags]
        return self._behind(name, instances, port, argv, key_env(self.engine.cluster_key))

    def stock_routed(
        self, name: str, instances: Sequence[InstanceSpec], peers: StockPeers, policy: str
    ) -> System:
        """The same behind sglang-router."""
        port = self.ports.pick()
        argv = router_command(children.HOST, port, self.ports.pick(), instances, policy=policy)
        return self._behind(name, instances, port, argv, peers.env())

    @contextlib.asynccontextmanager
    async def serving(self, *systems: System) -> AsyncIterator[None]:
        """In the block all `systems` serve: instances first, for sglang-router gives up on absent workers."""
        instances = [self._member(system, spec) for system in systems for spec in system.instances]
        routers = [system.router for system in systems if system.router]
        async with children.running(instances, START_S), children.running(routers, START_S):
            yield

    def _pair(self, prefill_flags: Sequence[str]) -> list[InstanceSpec]:
        prefill = self.engine.instance("prefill", self.ports, *prefill_flags)
        return [prefill, self.engine.instance("decode", self.ports)]

    def _behind(
        self,
        name: str,
        instances: Sequence[InstanceSpec],
        port: int,
        argv: Sequence[str],
        env: dict[str, str],
    ) -> System:
        url = url_of(children.HOST, port)
        # Its /health is good before it has looked at its instances.
        router = children.answering(
            f"{name}-router", argv, url, self.logs, self.session, env, path="/readiness"
        )
        return System(name, url, tuple(instances), router)

    def _member(self, system: System, spec: InstanceSpec) -> Member:
        name = f"{system.name}-{spec.name}"
        log = self.logs / f"{name}.log"
        phase = partial(probe.instance_phase, self.session, spec.url, log)
        return Member(name, spec.argv(), spec.env(), log, phase)


@contextlib.asynccontextmanager
async def building(engine: EngineSpec, first_port: int, logs: Path | None = None) -> AsyncIterator[Builder]:
    """In the block systems of `engine` can be started, on free ports from `first_port` up.

    `logs`: a folder; None: one that is gone afterwards.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memserve_bench.")))
        session = await stack.enter_async_context(probe.client())
        ports = stack.enter_context(PortPicker(children.HOST, first_port))
        yield Builder(engine, ports, logs or folder, session)
