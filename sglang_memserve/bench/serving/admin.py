"""Calls to a system beside its load: to empty its caches, its counters, the devices it computes on."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import aiohttp
import orjson

from sglang_memserve.bench.serving.arms import BenchTarget
from sglang_memserve.cluster.errors import ClusterError

_REPLY_S = 10.0
_QUIET_S = 60.0
_ROLES = ("prefill", "decode", "colocated")
_SENT, _WRITTEN_BACK = "kv_bytes_sent", "kv_bytes_sent_from_dram"
_ORIGINS = ("from_hbm", "from_dram", "fetched", "computed")
_MOVED_MIB = re.compile(r"^sglang:kv_transfer_total_mb_sum(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


async def flush(session: aiohttp.ClientSession, target: BenchTarget) -> str | None:
    """Empties the caches. Returns why that cannot be done with a system that was not started here, or None.

    Waits until running requests have ended: SGLang refuses before. Raises ClusterError if it still does then,
    or if a system that was started here cannot.
    """
    for url in target.administered:
        if reason := await _flush(session, f"{url}/flush_cache"):
            if target.engines:
                raise ClusterError(reason)
            return reason
    return None


async def _flush(session: aiohttp.ClientSession, url: str) -> str | None:
    deadline = time.monotonic() + _QUIET_S
    while True:
        try:
            async with session.post(url, timeout=aiohttp.ClientTimeout(total=_REPLY_S)) as response:
                status, text = response.status, (await response.content.read(300)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{url} does not answer: {error or type(error).__name__}"
        if status == 200:
            return None
        if status in (401, 403, 404, 405):
            return f"{url} answers {status}"
        if time.monotonic() > deadline:
            raise ClusterError(f"{url} still answers {status} after {_QUIET_S:.0f} s: {text.strip()}")
        await asyncio.sleep(0.5)


async def counted(session: aiohttp.ClientSession, target: BenchTarget) -> dict[str, float]:
    """What the system has counted since its start, as far as it reports that.

    kv_moved_mb: KV from prefill to decode, as MemServe's prefill instances count it in /server_info, or else
    as SGLang's own metrics do (`--enable-metrics`), over whatever backend. As MemServe's instances count:
    kv_written_back_mb, from decode to prefill; and prefill_..._tokens: the tokens of prompts that prefill
    found in a medium, fetched, or computed.
    """
    found: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        found[name] = found.get(name, 0.0) + value

    for url in target.administered:
        instances = list(_counters(await _page(session, f"{url}/server_info")))
        if any(_SENT in counters for _, counters in instances):
            add("kv_moved_mb", sum(counters.get(_SENT, 0) for _, counters in instances) / 1e6)
        elif "sglang:" in (page := await _page(session, f"{url}/metrics")):
            # Without a line for it, nothing was moved yet.
            add("kv_moved_mb", sum(float(value) for value in _MOVED_MIB.findall(page)) * 1.048576)
        for mode, counters in instances:
            if mode != "prefill" and _WRITTEN_BACK in counters:
                add("kv_written_back_mb", counters[_WRITTEN_BACK] / 1e6)
            if mode != "decode":
                for name in _ORIGINS:
                    add(f"prefill_{name}_tokens", counters.get(f"prompt_tokens_{name}", 0))
    return found


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was counted between two times.

    prefill_spared_percent: the share of the prompts' tokens that prefill did not compute.
    """
    found = {name: value - before[name] for name, value in after.items() if name in before}
    if prompts := sum(found.get(f"prefill_{name}_tokens", 0) for name in _ORIGINS):
        found["prefill_spared_percent"] = 100 * (1 - found["prefill_computed_tokens"] / prompts)
    return found


async def devices(session: aiohttp.ClientSession, url: str) -> set[str]:
    """Devices of the instances at or behind `url`, as in "cpu" or "cuda". Empty where none is reported."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        instances = _instances(await _page(session, f"{url}/server_info"))
        return {str(instance["device"]) for instance in instances if instance.get("device")}
    return set()


def _instances(page: str) -> list[dict[str, Any]]:
    """From /server_info of an instance, or of a router for many.

    Raises ValueError, TypeError or AttributeError for a page of another form.
    """
    info = orjson.loads(page)
    return [*chain.from_iterable(info.get(role, ()) for role in _ROLES)] or [info]


def _counters(page: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The role in a split and MemServe's counters, of each instance in a /server_info."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        for instance in _instances(page):
            counters = instance["internal_states"][0]["memserve"]
            counts = {name: count for name, count in counters.items() if isinstance(count, int)}
            yield str(instance.get("disaggregation_mode")), counts


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    """Empty if there is none."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=_REPLY_S)) as response:
            return await response.text(errors="replace") if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""
