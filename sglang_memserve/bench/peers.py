"""The stock systems beside ours: SGLang split over Mooncake's TCP, and sglang-router."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from sglang_memserve.cluster import share
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.spec import InstanceSpec, instance_flags
from sglang_memserve.compat import BACKEND
from sglang_memserve.cpu import attention as cpu_attention
from sglang_memserve.launch_server import CPU_PLATFORM, default_flags, value_of
from sglang_memserve.model import resolve_model
from sglang_memserve.model.embedded import EMBEDDED_NAME

_OUR_SERVER = "sglang_memserve.launch_server"
STOCK_PLUGIN = "memserve_stock"
MOONCAKE = "mooncake"
ROUTER_NAME = "sglang-router"
CACHE_AWARE, ROUND_ROBIN = "cache_aware", "round_robin"
_PYTHON = (sys.executable, "-P", "-m")


@dataclass(frozen=True)
class StockPeers:
    """The folder that scripts/setup_peers.sh filled. Only a peer's processes are to have it on their path."""

    folder: Path

    def missing(self) -> str | None:
        """Why nothing can be measured against them, or None."""
        if (self.folder / "memserve.stamp").is_file():
            return None
        return f"the peers are not installed in {self.folder.name}: run scripts/setup_peers.sh"

    def require(self) -> None:
        """Raises ClusterError unless they are there."""
        if reason := self.missing():
            raise ClusterError(reason)

    def versions(self) -> dict[str, str]:
        """By distribution, from the folders' names."""
        found = (
            path.name.removesuffix(".dist-info").rsplit("-", 1) for path in self.folder.glob("*.dist-info")
        )
        return {name.replace("_", "-"): version for name, version in found if version != "0"}

    def env(self) -> dict[str, str]:
        """What puts them on a process's path."""
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class StockSpec(InstanceSpec):
    """An instance of stock SGLang: MemServe's platform for hosts without a GPU, and nothing else of it.

    It gets the flags that MemServe's own instances get, but for SGLang's own radix cache, no start of prefill
    before decode has answered (SGLang's own default), and the transfer backend: Mooncake over TCP. Only where
    these name MemServe's attention backend is the plug-in that brings it loaded as well; its hooks do nothing
    on an instance with neither MemServe's transfer backend nor its radix cache.
    """

    peers: StockPeers = StockPeers(Path())

    @classmethod
    def like(cls, ours: InstanceSpec, peers: StockPeers) -> "StockSpec":
        """With everything as `ours` has it."""
        return cls(**{field.name: getattr(ours, field.name) for field in fields(InstanceSpec)}, peers=peers)

    def argv(self) -> list[str]:
        """The command that starts it. Raises ModelError if the embedded model is meant and cannot be made."""
        ours = super().argv()
        flags = ours[ours.index(_OUR_SERVER) + 1 :]
        if self.model is None:
            flags = ["--model-path", resolve_model(None), "--served-model-name", EMBEDDED_NAME, *flags]
        defaults = default_flags(flags, cuda=bool(share.visible_gpus()))
        # SGLang refuses a cache that it does not know even where a later flag wins.
        for ours_alone in ("--radix-cache-backend", "--optimistic-prefill-attempts"):
            if ours_alone in defaults:
                del defaults[defaults.index(ours_alone) : defaults.index(ours_alone) + 2]
        flags = [MOONCAKE if arg == BACKEND else arg for arg in (*defaults, *flags)]
        return [*_PYTHON, "sglang.launch_server", *flags]

    def env(self) -> dict[str, str]:
        return {
            **super().env(),
            **self.peers.env(),
            "SGLANG_PLUGINS": ",".join(self._plugins()),
            "SGLANG_HOST_IP": self.host,
            "HF_HUB_OFFLINE": "1",
            "MC_FORCE_TCP": "1",
            "MOONCAKE_PROTOCOL": "tcp",
        }

    def _plugins(self) -> list[str]:
        ours = value_of(list(self.extra), "--attention-backend") == cpu_attention.NAME
        return [CPU_PLATFORM, STOCK_PLUGIN, *([BACKEND] if ours else [])]


def router_command(
    host: str,
    port: int,
    prometheus_port: int,
    instances: Sequence[InstanceSpec],
    log_level: str = "warn",
    policy: str = ROUND_ROBIN,
) -> list[str]:
    """sglang-router in front of `instances`. Its own default is CACHE_AWARE; ours has ROUND_ROBIN."""
    command = [*_PYTHON, "sglang_router.launch_router", "--host", host, "--port", str(port)]
    command += [
        "--prometheus-port",
        str(prometheus_port),
        "--policy",
        policy,
        "--log-level",
        log_level,
    ]
    return [*command, *instance_flags(instances)]
