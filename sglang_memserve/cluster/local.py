"""A cluster on this machine: instances and their router, as one thing to start, watch and stop."""

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import aiohttp

from mempool.security.cluster_key import ClusterKey
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.config import ClusterConfig
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.json_output import json_output
from sglang_memserve.cluster.spec import InstanceSpec, key_env, registry_argv, router_argv, router_env, url_of
from sglang_memserve.cluster.supervisor import Limits, Member, Report, Supervisor
from sglang_memserve.model import ModelInfo

_ROUTER, _REGISTRY = "router", "registry"
_NOTICE_S = 30.0  # for the router to see that an instance is back
_FIRST_REQUEST_S = 120.0


async def read_model(name: str | None, timeout_s: float) -> ModelInfo:
    """Makes the embedded model if `name` is None, and describes the model. Raises ClusterError.

    This runs in a process of its own: it may import torch, and this process stays small.
    """
    named = ("--model", name) if name else ()
    try:
        model = await json_output(["sglang_memserve.model", "--json", *named], timeout_s)
    except TimeoutError:
        raise ClusterError(f"the model was not ready after {timeout_s:.0f} s (--start-timeout)") from None
    except CalledProcessError:
        raise ClusterError("there is no model to serve") from None
    return ModelInfo(**model)


class LocalCluster:
    """The processes of `instances` and of a router in front of them.

    `session` presents the cluster's API key. `router_session`, where it is another, presents what the router
    asks of who administers it. Both stay the caller's. `cluster_key` is what all processes have.
    """

    def __init__(
        self,
        config: ClusterConfig,
        instances: Sequence[InstanceSpec],
        session: aiohttp.ClientSession,
        report: Report,
        limits: Limits | None = None,
        *,
        router_session: aiohttp.ClientSession | None = None,
        cluster_key: ClusterKey | None = None,
    ) -> None:
        scheme = "https" if config.router.get("tls_cert_path") else "http"
        self.url = url_of(config.host, config.port, scheme)
        self._config = config
        self._cluster_key = cluster_key
        self._instances = {spec.name: spec for spec in instances}
        self._session = session
        self._router_session = router_session or session
        self._members = [
            *self._registries(),
            self._router(),
            *(self._member(spec) for spec in instances),
        ]
        self._supervisor = Supervisor(
            self._members,
            report,
            limits=limits or Limits(start_s=config.start_timeout),
            serves=self._serves,
            settle=self._settle,
        )

    async def start(self) -> None:
        """Returns when a real request has gone through every instance. Raises ClusterError."""
        await self._supervisor.start(self._prove)

    async def _prove(self) -> None:
        for spec in self._instances.values():
            if not await self._noticed(spec.url):
                raise ClusterError(
                    f"{spec.name} is ready, but the router does not see it after {_NOTICE_S:.0f} s"
                )
        for instances in _paths(list(self._instances.values())):
            await probe.generate_on(self._session, instances, _FIRST_REQUEST_S)
        await probe.generate_once(self._router_session, self.url, _FIRST_REQUEST_S)

    async def watch(self) -> None:
        """Restarts what dies. Raises ClusterError when nothing can serve any more; does not return."""
        await self._supervisor.watch()

    async def stop(self) -> None:
        """Stops the router, then the instances. Leaves no process."""
        await self._supervisor.stop()

    def kill(self) -> None:
        """Ends all processes at once."""
        self._supervisor.kill()

    def _router(self) -> Member:
        config = self._config
        return Member(
            name=_ROUTER,
            argv=router_argv(
                config.host, config.port, list(self._instances.values()), self._router_settings()
            ),
            env=router_env(config.api_key, config.admin_api_key, self._cluster_key),
            log=config.logs / f"{_ROUTER}.log",
            phase=partial(probe.router_phase, self._router_session, self.url),
            # Its clients' requests end with it; SGLang would wait for them.
            first_to_stop=True,
        )

    def _router_settings(self) -> Path | None:
        """Writes the file with the router's settings of the cluster file, if it has any."""
        if not self._config.router:
            return None
        file = self._config.logs / f"{_ROUTER}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        file.write_text(json.dumps(self._config.router, indent=1))
        return file

    def _registries(self) -> list[Member]:
        """One member for each registry that the instances name."""
        names = dict.fromkeys(name for spec in self._instances.values() for name in spec.registries)
        return [self._registry(endpoint) for endpoint in names]

    def _registry(self, endpoint: str) -> Member:
        log = self._config.logs / f"{_REGISTRY}.log"
        phase = partial(probe.registry_phase, endpoint)
        env = {"PYTHONUNBUFFERED": "1", **key_env(self._cluster_key)}
        return Member(name=_REGISTRY, argv=registry_argv(endpoint), env=env, log=log, phase=phase)

    def _member(self, spec: InstanceSpec) -> Member:
        log = self._config.logs / f"{spec.name}.log"
        phase = partial(probe.instance_phase, self._session, spec.url, log)
        return Member(name=spec.name, argv=spec.argv(), env=spec.env(), log=log, phase=phase)

    def _serves(self) -> bool:
        left = {member.name for member in self._members if not member.lost}
        roles = {spec.role for name, spec in self._instances.items() if name in left}
        return _ROUTER in left and ("colocated" in roles or {"prefill", "decode"} <= roles)

    async def _settle(self, member: Member) -> str:
        spec = self._instances.get(member.name)
        if spec is None or await self._noticed(spec.url):
            return "back"
        return f"up again, but the router does not see it after {_NOTICE_S:.0f} s"

    async def _noticed(self, url: str) -> bool:
        deadline = time.monotonic() + _NOTICE_S
        while time.monotonic() < deadline:
            try:
                if url in await probe.healthy_workers(self._router_session, self.url):
                    return True
            except ClusterError:
                pass  # the router may be on its way back as well
            await asyncio.sleep(0.2)
        return False


def _paths(instances: Sequence[InstanceSpec]) -> list[tuple[InstanceSpec, ...]]:
    """Each colocated instance, and pairs that cover all prefill and decode instances."""
    of = {role: [spec for spec in instances if spec.role == role] for role in ("prefill", "decode")}
    pairs = max(map(len, of.values())) if all(of.values()) else 0
    paired = [tuple(specs[number % len(specs)] for specs in of.values()) for number in range(pairs)]
    return [*((spec,) for spec in instances if spec.role == "colocated"), *paired]
