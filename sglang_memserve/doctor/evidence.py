"""What a router and its instances report. All of it comes through the router, which can reach them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import ask, worker_list

_ROLES = ("prefill", "decode", "colocated")


@dataclass(frozen=True, eq=False)
class InstanceEvidence:
    """One instance: the router's entry for it, its own /server_info ({} if it gave none), and the state of
    the feeds of its cache events, by medium.
    """

    worker: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)
    feeds: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.role} {self.url}"

    @property
    def url(self) -> str:
        return str(self.worker["url"])

    @property
    def role(self) -> str:
        return str(self.worker.get("role"))

    @property
    def memserve(self) -> dict[str, Any]:
        """MemServe's part of /server_info; {} for stock SGLang."""
        return dict_of(self.info.get("memserve"))

    @property
    def counters(self) -> dict[str, Any]:
        """The counters of its first rank."""
        states = self.info.get("internal_states")
        return dict_of(dict_of(states[0]).get("memserve")) if isinstance(states, list) and states else {}


@dataclass(frozen=True)
class Evidence:
    """`routing`: the router's own counts. `trouble`: why /server_info could not be read."""

    instances: Sequence[InstanceEvidence]
    routing: dict[str, Any] = field(default_factory=dict)
    router_version: str | None = None
    trouble: str = ""

    def of(self, role: str) -> list[InstanceEvidence]:
        return [instance for instance in self.instances if instance.role == role]


async def gather(session: aiohttp.ClientSession, router: str) -> Evidence:
    """Raises ClusterError if no router answers."""
    workers = await ask(session, f"{router}/workers")
    listed = worker_list(workers)
    trouble, infos = "", dict[str, dict[str, Any]]()
    try:
        reported = dict_of(await ask(session, f"{router}/server_info"))
        entries = [
            entry for role in _ROLES for entry in list_of(reported.get(role)) if isinstance(entry, dict)
        ]
        infos = {str(entry.get("url")): entry for entry in entries if "error" not in entry}
    except ClusterError as error:
        trouble = str(error)
    feeds, routing = (dict_of(dict_of(workers).get(name)) for name in ("feeds", "routing"))
    return Evidence(
        [
            InstanceEvidence(worker, infos.get(worker["url"], {}), dict_of(feeds.get(worker["url"])))
            for worker in listed
        ],
        routing,
        await _version(session, router),
        trouble,
    )


async def _version(session: aiohttp.ClientSession, router: str) -> str | None:
    try:
        document = dict_of(await ask(session, f"{router}/openapi.json"))
    except ClusterError:
        return None
    version = dict_of(document.get("info")).get("version")
    return version if isinstance(version, str) else None


def dict_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def count_of(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
