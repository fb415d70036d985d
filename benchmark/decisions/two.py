"""Two colocated instances that know each other, under a bound on what each sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import aiohttp

from benchmark.caching.pair import InstancePair, name
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import Builder, System
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.spec import registry_argv
from sglang_memserve.cluster.supervisor import Member

PAGE = 16


@dataclass(frozen=True)
class Two:
    """`here` asks one instance, to which a hint names the other; `there` the other way round."""

    here: InstancePair
    there: InstancePair
    systems: tuple[System, System]

    async def forget(self) -> None:
        """Empties the caches of both."""
        await self.here.forget()
        await self.there.forget()


@asynccontextmanager
async def raised(
    builder: Builder, session: aiohttp.ClientSession, bandwidth: int, dram_tokens: int
) -> AsyncIterator[Two]:
    """In the block both serve. `bandwidth`: bytes a second, 0 for no bound. Raises ClusterError."""
    registry = f"tcp://{children.HOST}:{builder.ports.pick()}"
    flags = ["--memserve-max-bandwidth", str(bandwidth), "--memserve-dram", f"{dram_tokens // PAGE} blocks"]
    here, there = (_system(builder, part, registry, flags) for part in ("here", "there"))
    log, phase = builder.logs / "registry.log", partial(probe.registry_phase, registry)
    async with (
        children.running([Member("registry", registry_argv(registry), {}, log, phase)]),
        builder.serving(here, there),
    ):
        names = [await name(session, system.url) for system in (here, there)]
        yield Two(
            InstancePair(session, here.url, here.url, there.url, names[1], "colocated"),
            InstancePair(session, there.url, there.url, here.url, names[0], "colocated"),
            (here, there),
        )


def _system(builder: Builder, part: str, registry: str, flags: list[str]) -> System:
    system = builder.colocated(part)
    (spec,) = system.instances
    return replace(system, instances=(replace(spec, registries=(registry,), extra=(*spec.extra, *flags)),))
