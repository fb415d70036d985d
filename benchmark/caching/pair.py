"""The pair of instances on which prefixes are measured, one request at a time, and its counters."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import aiohttp
import orjson

from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import Builder
from sglang_memserve.bench.serving import admin
from sglang_memserve.bench.serving.answer import RequestError, StreamedAnswer
from sglang_memserve.bench.serving.apis import Generate, RequestSettings
from sglang_memserve.bench.serving.arms import BenchTarget
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.spec import InstanceSpec, registry_argv
from sglang_memserve.cluster.supervisor import Member

_ANSWER_TOKENS = 4
_DRAM_BLOCKS = 2048
_REQUEST_S, _SEEN_S, _POLL_S = 300.0, 30.0, 0.02
_DEADLINE_MS = 30_000


@dataclass(frozen=True)
class Served:
    """`ttft`: seconds. `grown`: by how much prefill's counters have grown with this request."""

    ttft: float
    grown: Counter[str]


@dataclass(frozen=True)
class InstancePair:
    """`url` is the router's, `prefill` and `decode` those of the instances; `source` is decode's name.

    It may be two colocated instances as well: `prefill` is the one that is asked then, and `role` says so.
    """

    session: aiohttp.ClientSession
    url: str
    prefill: str
    decode: str
    source: str
    role: str = "prefill"

    async def ask(self, tokens: Sequence[int], fetch: bool = False) -> Served:
        """Returns when prefill has counted it. `fetch`: with a hint that decode has the KV of a prefix.

        Raises ClusterError if no whole answer comes.
        """
        before = await counters(self.session, self.prefill)
        answer = await self._answer(tokens, fetch)

        def counted(now: Counter[str]) -> bool:
            return now["prompt_tokens"] - before["prompt_tokens"] == len(tokens)

        after = await self._until(self.prefill, counted, f"a prompt of {len(tokens)} tokens in its counters")
        after.subtract(before)
        return Served(answer.ttft, after)

    async def bring(self, tokens: Sequence[int]) -> None:
        """Prefill and decode have its KV then, in HBM and in DRAM: fetched where that is quicker.

        Whole pages alone are kept of it.
        """
        await self.ask(tokens, fetch=True)
        await self.settled()

    async def settled(self) -> None:
        """Waits until both have copied what they keep to DRAM."""
        for url in (self.prefill, self.decode):
            await self._until(url, lambda now: not now["dram_blocks_in_use"], "all KV in its DRAM")

    async def forget(self) -> None:
        """Empties prefill's caches."""
        await admin.flush(self.session, BenchTarget("prefill", self.prefill, (self.prefill,)))

    async def _answer(self, tokens: Sequence[int], fetch: bool) -> StreamedAnswer:
        sampling = {"max_new_tokens": _ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
        body = {"input_ids": list(tokens), "sampling_params": sampling, "stream": True}
        if fetch:
            body["kv_hints"] = _hint(self.source, self.role)
        client = Client(self.session, self.url, _REQUEST_S)
        try:
            return await client.ask(Generate(RequestSettings()), orjson.dumps(body))
        except RequestError as error:
            raise ClusterError(f"a prompt of {len(tokens)} tokens got no answer: {error}") from error

    async def _until(self, url: str, holds: Callable[[Counter[str]], bool], what: str) -> Counter[str]:
        deadline = time.monotonic() + _SEEN_S
        while not holds(now := await counters(self.session, url)):
            if time.monotonic() > deadline:
                raise ClusterError(f"{url} has not {what} after {_SEEN_S:.0f} s: {dict(now)}")
            await asyncio.sleep(_POLL_S)
        return now


@asynccontextmanager
async def raised(
    builder: Builder, session: aiohttp.ClientSession, pool_tokens: int
) -> AsyncIterator[InstancePair]:
    """In the block one prefill and one decode instance serve, and know each other.

    `pool_tokens`: prefill's HBM. Raises ClusterError if they do not come up.
    """
    registry = f"tcp://{children.HOST}:{builder.ports.pick()}"
    system = builder.pair("crossover")
    prefill, decode = (_part(spec, registry, pool_tokens) for spec in system.instances)
    log, phase = builder.logs / "crossover-registry.log", partial(probe.registry_phase, registry)
    async with (
        children.running([Member("registry", registry_argv(registry), {}, log, phase)]),
        builder.serving(replace(system, instances=(prefill, decode))),
    ):
        source = await name(session, decode.url)
        yield InstancePair(session, system.url, prefill.url, decode.url, source)


def _part(spec: InstanceSpec, registry: str, pool_tokens: int) -> InstanceSpec:
    own = ["--memserve-dram", f"{_DRAM_BLOCKS} blocks"]
    if spec.role == "prefill":
        own += ["--max-total-tokens", str(pool_tokens)]
    return replace(spec, registries=(registry,), extra=(*spec.extra, *own))


async def counters(session: aiohttp.ClientSession, url: str) -> Counter[str]:
    """MemServe's counters of an instance, by name; 0 for one that has not begun. Raises ClusterError."""
    counters = await _counters(session, url)
    return Counter({name: count for name, count in counters.items() if isinstance(count, int)})


async def name(session: aiohttp.ClientSession, url: str) -> str:
    """The name by which the others know an instance. Raises ClusterError."""
    return str((await _counters(session, url))["instance"])


async def _counters(session: aiohttp.ClientSession, url: str) -> dict[str, object]:
    info = await probe.ask(session, f"{url}/server_info")
    try:
        return dict(info["internal_states"][0]["memserve"])
    except (KeyError, IndexError, TypeError):
        raise ClusterError(f"{url}/server_info tells nothing of MemServe's") from None


def _hint(source: str, role: str) -> dict[str, object]:
    payload = {"from": source, "deadline_ms": _DEADLINE_MS, "role": role}
    action = {"action_id": "1", "action_version": "1", "action_type": "memserve.fetch", "payload": payload}
    return {"protocol_version": "1", "message_id": "1", "actions": [action]}
