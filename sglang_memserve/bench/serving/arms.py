"""The systems that can be compared, and how each is started on this machine."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sglang_memserve.bench.clusters import Builder, System
from sglang_memserve.bench.peers import CACHE_AWARE, StockPeers
from sglang_memserve.cluster.errors import UsageError

# What an instance takes in memory beside weights and KV pool: 2.2 GB at rest, as measured, and a prefill's
# intermediate results.
INSTANCE_BYTES = 2_700_000_000
# SGLang counts the KV that it moves only with this.
METRICS = "--enable-metrics"


@dataclass(frozen=True)
class BenchTarget:
    """A system that serves at `url`. `engines` are the URLs of its instances, where these are known."""

    name: str
    url: str
    engines: tuple[str, ...] = ()

    @property
    def administered(self) -> tuple[str, ...]:
        """Where to flush caches: at each instance, or at the only URL that is known."""
        return self.engines or (self.url,)


Kind = Literal["colocated", "stock pair", "pair", "running"]
_NO_RADIX = ("--disable-radix-cache",)


@dataclass(frozen=True)
class Arm:
    """One system to compare: started with flags of its own, or running already at `url`."""

    name: str
    about: str
    kind: Kind
    prefill: tuple[str, ...] = ()
    decode: tuple[str, ...] = ()
    colocated: tuple[str, ...] = ()
    url: str = ""

    @property
    def instances(self) -> int:
        """How many instances are started."""
        return {"colocated": 1, "stock pair": 2, "pair": 2, "running": 0}[self.kind]

    @property
    def needs_peers(self) -> bool:
        return self.kind == "stock pair"

    def system(self, builder: Builder, peers: StockPeers) -> System:
        """The system to start."""
        if self.kind == "pair":
            system = builder.pair(self.name)
        elif self.kind == "stock pair":
            # The router's own default, as its users have it.
            system = builder.stock_pair(self.name, peers, policy=CACHE_AWARE)
        else:
            system = builder.stock_colocated(self.name, peers)
        flags = {"prefill": self.prefill, "decode": self.decode, "colocated": self.colocated}
        instances = (replace(spec, extra=(*spec.extra, *flags[spec.role])) for spec in system.instances)
        return replace(system, instances=tuple(instances))


def _ours(name: str, about: str, caching: str, transfer: str | None = None) -> Arm:
    flags = ("--memserve-caching", caching, *(("--memserve-transfer", transfer) if transfer else ()))
    return Arm(name, about, "pair", prefill=flags, decode=flags)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("colocated", "one stock SGLang server with its radix cache", "colocated"),
        Arm("colocated-no-radix", "the same without a cache", "colocated", colocated=_NO_RADIX),
        Arm(
            "stock-pd",
            "stock SGLang, prefill and decode over Mooncake's TCP behind sglang-router (its default policy, "
            "cache_aware); prefill has a cache",
            "stock pair",
            decode=_NO_RADIX,
        ),
        Arm("stock-pd-radix", "the same with decode's radix cache", "stock pair"),
        _ours(
            "memserve-pd",
            "MemServe, prefill and decode behind its router; both cache, and answers go back to prefill",
            "3",
        ),
        _ours("memserve-pd-2", "the same without write-back (PD-Caching-2)", "2"),
        _ours("memserve-pd-1", "the same with a cache on prefill only (PD-Caching-1)", "1"),
        _ours("memserve-pd-basic", "the same without any cache (PD-Basic)", "basic"),
        _ours("memserve-pd-by-layer", "as memserve-pd, KV sent layer by layer", "3", "by-layer"),
        _ours("memserve-pd-by-request", "as memserve-pd, KV sent at once in many pieces", "3", "by-request"),
    )
}


def named(name: str) -> Arm:
    """Raises UsageError for an unknown name."""
    if name not in ARMS:
        raise UsageError(f"--arms {name}: there is no such arm; choose from {', '.join(ARMS)}")
    return ARMS[name]


def running(spec: str) -> Arm:
    """The arm that NAME=URL means. Raises UsageError."""
    name, equals, url = spec.partition("=")
    if not (name and equals and url.startswith(("http://", "https://"))):
        raise UsageError(f"--url {spec}: give NAME=URL, as in mine=http://127.0.0.1:30000")
    return Arm(name, f"running at {url}", "running", url=url.rstrip("/").removesuffix("/v1"))


@contextlib.asynccontextmanager
async def serving(
    arms: Sequence[Arm], builder: Builder | None, peers: StockPeers
) -> AsyncIterator[list[BenchTarget]]:
    """All of `arms` serve within the block. `builder` starts those that do not run. Raises UsageError."""
    async with contextlib.AsyncExitStack() as stack:
        systems = {arm.name: arm.system(builder, peers) for arm in arms if arm.instances and builder}
        if builder:
            await stack.enter_async_context(builder.serving(*systems.values()))
        yield [_target(arm, systems.get(arm.name)) for arm in arms]


def _target(arm: Arm, system: System | None) -> BenchTarget:
    if system is None:
        return BenchTarget(arm.name, arm.url)
    return BenchTarget(arm.name, system.url, tuple(instance.url for instance in system.instances))
