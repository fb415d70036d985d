"""The instances that stay up while routers come and go before them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import aiohttp
import orjson

from benchmark.policies import contenders
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import START_S, Builder, System
from sglang_memserve.bench.peers import ROUND_ROBIN, StockPeers
from sglang_memserve.bench.serving.answer import RequestError
from sglang_memserve.bench.serving.apis import Generate, RequestSettings
from sglang_memserve.bench.serving.arms import Arm, BenchTarget
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.workloads.form import WorkloadTurn
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.spec import InstanceSpec, Role, registry_argv
from sglang_memserve.cluster.supervisor import Member

ROLES: tuple[Role, ...] = ("prefill", "prefill", "prefill", "decode")
# All documents and answers fit, at every instance.
_CACHING = ("--memserve-caching", "3", "--memserve-dram", "512MiB")
_TOKENISES_S, _POLL_S, _REQUEST_S = 60.0, 0.2, 60.0
_REHEARSALS = 2  # of each prefill instance
_TOKEN_IDS = (1000, 40_000)
_PAGES = ("decisions?last=1000", "workers")


@dataclass(frozen=True)
class PoliciesCluster:
    """`instances` serve. `records`: a folder for the routers' decisions, or None; `profile`: what cost_model
    prices by, or None for the built-in one.
    """

    builder: Builder
    session: aiohttp.ClientSession
    peers: StockPeers
    instances: tuple[InstanceSpec, ...]
    records: Path | None = None
    profile: Path | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @contextlib.asynccontextmanager
    async def serving(self, arms: Sequence[Arm]) -> AsyncIterator[list[BenchTarget]]:
        """In the block the router that the one arm names serves. It is new: it knows of no request."""
        (arm,) = arms
        async with self._serving(arm.name) as url:
            if arm.name in contenders.BY_TOKENS:
                await _tokenises(self.builder.session, url)
            try:
                yield [BenchTarget(arm.name, url, tuple(instance.url for instance in self.instances))]
            finally:
                await self._keep_decisions(arm.name, url)

    async def rehearse(self, tokens: int) -> None:
        """Each prefill instance has sent prompts of `tokens` tokens to decode then. Raises ClusterError."""
        rng = Random(tokens)
        async with self._serving(ROUND_ROBIN) as url:
            client = Client(self.session, url, _REQUEST_S)
            for _ in range(_REHEARSALS * ROLES.count("prefill")):
                talk = Generate(RequestSettings())
                prompt = tuple(rng.randrange(*_TOKEN_IDS) for _ in range(tokens))
                try:
                    await client.ask(talk, talk.ask(WorkloadTurn(prompt, 4)))
                except RequestError as error:
                    raise ClusterError(f"the cluster does not answer: {error}") from error

    @contextlib.asynccontextmanager
    async def _serving(self, name: str) -> AsyncIterator[str]:
        system = contenders.target_of(name, self.builder, self.instances, self.peers, self.profile)
        assert system.router is not None
        async with children.running([system.router], START_S):
            yield system.url

    async def _keep_decisions(self, name: str, url: str) -> None:
        """With those of instances and of predictions, for whoever asks why it went as it went."""
        if self.records is None or name == contenders.PEER:
            return
        with contextlib.suppress(ClusterError):
            pages = [await probe.ask(self.builder.session, f"{url}/{path}") for path in _PAGES]
            kept = {key: value for page in pages for key, value in page.items()}
            (self.records / f"decisions-{next(self._numbers)}-{name}.json").write_bytes(orjson.dumps(kept))


@contextlib.asynccontextmanager
async def raised(
    builder: Builder,
    session: aiohttp.ClientSession,
    peers: StockPeers,
    records: Path | None,
    profile: Path | None = None,
) -> AsyncIterator[PoliciesCluster]:
    """In the block the instances serve, and know each other. Raises ClusterError if they do not come up."""
    registry = f"tcp://{children.HOST}:{builder.ports.pick()}"
    made = [builder.engine.instance(role, builder.ports, *_CACHING) for role in ROLES]
    instances = tuple(
        replace(spec, index=ROLES[:at].count(spec.role), registries=(registry,))
        for at, spec in enumerate(made)
    )
    log, phase = builder.logs / "registry.log", partial(probe.registry_phase, registry)
    async with (
        children.running([Member("registry", registry_argv(registry), {}, log, phase)]),
        builder.serving(System("cluster", "", instances)),
    ):
        yield PoliciesCluster(builder, session, peers, instances, records, profile)


async def _tokenises(session: aiohttp.ClientSession, url: str) -> None:
    """Returns when this router knows its instances' tokenizer. Raises ClusterError."""
    deadline = time.monotonic() + _TOKENISES_S
    while not (await probe.ask(session, f"{url}/explain", {"text": "One, two"})).get("tokenised"):
        if time.monotonic() > deadline:
            raise ClusterError(f"the router at {url} has no tokenizer after {_TOKENISES_S:.0f} s")
        await asyncio.sleep(_POLL_S)
