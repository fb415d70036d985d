"""One SGLang instance or router: its command and where it listens."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mempool.security.cluster_key import ClusterKey
from sglang_memserve.launch_server import API_KEY_VARIABLE

Role = Literal["prefill", "decode", "colocated"]

ROUTER_KEY_VARIABLES = ("MEMSERVE_ROUTER_API_KEY", "MEMSERVE_ROUTER_WORKER_API_KEY")
ROUTER_ADMIN_KEY_VARIABLE = "MEMSERVE_ROUTER_ADMIN_API_KEY"

# -P: a folder of the same name where the user stands must not be imported instead.
_PYTHON = (sys.executable, "-P", "-m")


@dataclass(frozen=True)
class InstanceSpec:
    """An instance of `role`; `index` counts within the role. None leaves the choice to SGLang.

    `threads` are OpenMP's, `max_total_tokens` is the KV pool's size in tokens, `gpus` are what CUDA may see,
    `api_key` is asked of clients, `cluster_key` of other processes of the cluster (both travel in the
    environment, since everybody can read command lines), through `registries` instances find each other, and
    `extra` are flags of SGLang's that win over everything else.
    """

    role: Role
    index: int
    port: int
    host: str = "127.0.0.1"
    bootstrap_port: int | None = None
    model: str | None = None
    threads: int | None = None
    max_total_tokens: int | None = None
    gpus: tuple[int, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    cluster_key: ClusterKey | None = None
    registries: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.role}-{self.index}"

    @property
    def url(self) -> str:
        return url_of(self.host, self.port)

    def argv(self) -> list[str]:
        """The command that starts it."""
        command = [*_PYTHON, "sglang_memserve.launch_server", "--host", self.host, "--port", str(self.port)]
        if self.role != "colocated":
            command += ["--disaggregation-mode", self.role]
        for flag, value in (
            ("--disaggregation-bootstrap-port", self.bootstrap_port),
            ("--model-path", self.model),
            ("--max-total-tokens", self.max_total_tokens),
        ):
            if value is not None:
                command += [flag, str(value)]
        return [*command, *self.extra]

    def env(self) -> dict[str, str]:
        """What its environment has beside ours."""
        env = {"PYTHONUNBUFFERED": "1"}
        if self.threads:
            env["OMP_NUM_THREADS"] = str(self.threads)
        if self.api_key:
            env[API_KEY_VARIABLE] = self.api_key
        env |= key_env(self.cluster_key)
        if self.registries:
            env["MEMSERVE_REGISTRIES"] = ",".join(self.registries)
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpus))
        return env


def registry_argv(endpoint: str) -> list[str]:
    """The command that starts a registry of instances."""
    command = [*_PYTHON, "mempool.membership.registry", "--bind", endpoint]
    return [*command, "--log-level", "warning"]


def router_argv(
    host: str, port: int, instances: Sequence[InstanceSpec], settings: Path | None = None
) -> list[str]:
    """The command that starts a router in front of `instances`; `settings`: a file with more of them."""
    command = [*_PYTHON, "router.launch_router", "--host", host, "--port", str(port)]
    file = ["--config", str(settings)] if settings else []
    return [*command, *file, *instance_flags(instances)]


def instance_flags(instances: Sequence[InstanceSpec]) -> list[str]:
    """Names `instances` to a router; ours has sglang-router's flags for it."""
    flags = ["--pd-disaggregation"] if any(spec.role != "colocated" for spec in instances) else []
    for spec in instances:
        if spec.role == "prefill":
            flags += ["--prefill", spec.url, str(spec.bootstrap_port or "none")]
        elif spec.role == "decode":
            flags += ["--decode", spec.url]
    workers = [spec.url for spec in instances if spec.role == "colocated"]
    return [*flags, "--worker-urls", *workers] if workers else flags


def router_env(
    api_key: str | None, admin_api_key: str | None = None, cluster_key: ClusterKey | None = None
) -> dict[str, str]:
    """What a router's environment has beside ours; its instances ask for the same key as it does."""
    keys = dict.fromkeys(ROUTER_KEY_VARIABLES, api_key) if api_key else {}
    if admin_api_key:
        keys[ROUTER_ADMIN_KEY_VARIABLE] = admin_api_key
    return {"PYTHONUNBUFFERED": "1", **keys, **key_env(cluster_key)}


def key_env(cluster_key: ClusterKey | None) -> dict[str, str]:
    """What every process of a cluster has in its environment, where the cluster has a key."""
    return {} if cluster_key is None else cluster_key.to_environment()


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{reachable}:{port}"
