"""HTTP requests to the servers of a cluster."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from router.protocol.tls import ClientTls
from sglang_memserve.cluster.errors import AdminKeyNeeded, ClusterError, UsageError
from sglang_memserve.cluster.spec import InstanceSpec

_PROBE_S = 5.0
_MAX_ANSWER = 16 * 1024 * 1024
_NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
KEY_HINT = "the router asks for its API key: set MEMSERVE_API_KEY or --api-key"
ADMIN_HINT = "the router asks for its admin key: set MEMSERVE_ADMIN_API_KEY or --api-key"
_LOADING = b"Load weight begin"


def client(api_key: str | None = None, tls: ClientTls | None = None) -> aiohttp.ClientSession:
    """A session with a timeout of a few seconds that presents the key. The caller closes it.

    `tls`: whom to believe at an https URL; the system's CAs without it.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls.context) if tls else None,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
        timeout=aiohttp.ClientTimeout(total=_PROBE_S),
        trust_env=False,
    )


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether GET `url` gives 200 now."""
    try:
        async with session.get(url) as response:
            return response.status == 200
    except _NETWORK_ERRORS:
        return False


async def ask(session: aiohttp.ClientSession, url: str, body: object = None) -> Any:
    """The JSON that GET `url` gives (POST, with a `body`), at most 16 MiB.

    Raises ClusterError with URL and reason, UsageError for a missing or wrong key.
    """
    method = "GET" if body is None else "POST"
    try:
        async with session.request(method, url, json=body) as response:
            body = await _limited(response)
            if response.status == 401:
                raise UsageError(f"{url} answers 401: {KEY_HINT}")
            if response.status == 403:
                raise AdminKeyNeeded(f"{url} answers 403: {ADMIN_HINT}")
            if response.status != 200:
                raise ClusterError(f"{url} answers {response.status}: {body[:300].decode(errors='replace')}")
    except _NETWORK_ERRORS as error:
        raise ClusterError(f"{url} does not answer: {error or type(error).__name__}") from error
    return _json(url, body)


async def instance_phase(session: aiohttp.ClientSession, url: str, log: Path) -> str:
    """How far an instance's start has come: starting, loading, warming up, ready."""
    # Not /health: on a prefill or decode instance it runs a prompt through the engine.
    if await answers(session, f"{url}/ready"):
        return "ready"
    if await answers(session, f"{url}/model_info"):
        return "warming up"
    return "loading" if await asyncio.to_thread(_contains, log, _LOADING) else "starting"


async def registry_phase(endpoint: str) -> str:
    """Whether a registry listens at `endpoint`: starting or ready."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except _NETWORK_ERRORS:
        return "starting"
    writer.close()
    return "ready"


async def router_phase(session: aiohttp.ClientSession, url: str) -> str:
    """Whether a router has come up: starting or ready."""
    return "ready" if await answers(session, f"{url}/workers") else "starting"


async def generate_once(session: aiohttp.ClientSession, where: str, timeout_s: float, **fields: Any) -> None:
    """One small request to a router or an instance. Raises ClusterError unless text comes back."""
    url = f"{where}/generate"
    sampling = {"max_new_tokens": 2, "temperature": 0}
    body = {"text": "One, two, three,", "sampling_params": sampling, **fields}
    try:
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
            answer = await _limited(response)
    except _NETWORK_ERRORS as error:
        raise ClusterError(f"a request to {url} got no answer: {error or type(error).__name__}") from error
    if response.status != 200 or "text" not in _json(url, answer):
        raise ClusterError(f"a request to {url} failed with {response.status}: {answer[:500]!r}")


async def generate_on(
    session: aiohttp.ClientSession, instances: Sequence[InstanceSpec], timeout_s: float
) -> None:
    """One small request to a colocated instance, or to a pair, without the router."""
    first = instances[0]
    room = {
        "bootstrap_host": urlsplit(first.url).hostname,
        "bootstrap_port": first.bootstrap_port,
        "bootstrap_room": random.getrandbits(62) | 1,
    }
    fields = room if len(instances) > 1 else {}
    await asyncio.gather(*(generate_once(session, spec.url, timeout_s, **fields) for spec in instances))


async def healthy_workers(session: aiohttp.ClientSession, router: str) -> set[str]:
    """The URLs of the instances that the router sends requests to. Raises ClusterError."""
    workers = await ask(session, f"{router}/workers")
    return {worker["url"].rstrip("/") for worker in worker_list(workers) if worker.get("healthy")}


def worker_list(answer: Any) -> list[dict[str, Any]]:
    """The entries of a GET /workers answer. Raises ClusterError if it is something else."""
    listed = answer.get("workers") if isinstance(answer, dict) else answer
    if not isinstance(listed, list) or not all(
        isinstance(w, dict) and isinstance(w.get("url"), str) for w in listed
    ):
        raise ClusterError(f"this is no router of MemServe's: GET /workers gave {str(answer)[:200]}")
    return listed


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    body = await response.content.read(_MAX_ANSWER + 1)
    while len(body) <= _MAX_ANSWER and (more := await response.content.read(_MAX_ANSWER)):
        body += more
    if len(body) > _MAX_ANSWER:
        raise ValueError(f"more than {_MAX_ANSWER} bytes")
    return body


def _json(url: str, body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise ClusterError(f"{url} gave no JSON: {body[:200]!r}") from error


def _contains(log: Path, mark: bytes) -> bool:
    try:
        return mark in log.read_bytes()
    except OSError:
        return False
