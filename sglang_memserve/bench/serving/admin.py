"""What is asked of a system between the runs: to empty its caches, and what it has counted."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from itertools import chain

import aiohttp
import orjson

from sglang_memserve.bench.serving.arms import Target
from sglang_memserve.cluster.errors import ClusterError

_ASK_S = 10.0
_QUIET_S = 60.0
_ROLES = ("prefill", "decode", "colocated")
_SENT = "kv_bytes_sent_from_dram"
_ORIGINS = ("from_hbm", "from_dram", "fetched", "computed")
_MOVED_MIB = re.compile(r"^sglang:kv_transfer_total_mb_sum(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


async def flush(session: aiohttp.ClientSession, target: Target) -> str | None:
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
            async with session.post(url, timeout=aiohttp.ClientTimeout(total=_ASK_S)) as response:
                status, said = response.status, (await response.content.read(300)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{url} does not answer: {error or type(error).__name__}"
        if status == 200:
            return None
        if status in (401, 403, 404, 405):
            return f"{url} answers {status}"
        if time.monotonic() > deadline:
            raise ClusterError(f"{url} still answers {status} after {_QUIET_S:.0f} s: {said.strip()}")
        await asyncio.sleep(0.5)


async def counted(session: aiohttp.ClientSession, target: Target) -> dict[str, float]:
    """What the system has counted since its start, of what it tells.

    kv_moved_mb: KV from prefill to decode, as SGLang's own metrics count it (`--enable-metrics`), over
    whatever backend. As MemServe's instances count: kv_written_back_mb, from decode to prefill; and
    prefill_..._tokens: those of the prompts that whoever prefilled found in a medium, fetched, or computed.
    """
    found: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        found[name] = found.get(name, 0.0) + value

    for url in target.administered:
        page = await _page(session, f"{url}/metrics")
        if "sglang:" in page:
            # Without a line for it, nothing was moved yet.
            add("kv_moved_mb", sum(float(value) for value in _MOVED_MIB.findall(page)) * 1.048576)
        for mode, told in _told(await _page(session, f"{url}/server_info")):
            if mode != "prefill" and _SENT in told:
                add("kv_written_back_mb", told[_SENT] / 1e6)
            if mode != "decode":
                for name in _ORIGINS:
                    add(f"prefill_{name}_tokens", told.get(f"prompt_tokens_{name}", 0))
    return found


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was counted between two times, and prefill_spared_percent: of the prompts' tokens, those that
    nobody computed again.
    """
    found = {name: value - before[name] for name, value in after.items() if name in before}
    if asked := sum(found.get(f"prefill_{name}_tokens", 0) for name in _ORIGINS):
        found["prefill_spared_percent"] = 100 * (1 - found["prefill_computed_tokens"] / asked)
    return found


def _told(page: str) -> Iterator[tuple[str, dict[str, int]]]:
    """From /server_info of an instance, or of a router for many: role in a split, MemServe's counters."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        info = orjson.loads(page)
        for one in [*chain.from_iterable(info.get(role, ()) for role in _ROLES)] or [info]:
            told = one["internal_states"][0]["memserve"]
            counts = {name: count for name, count in told.items() if isinstance(count, int)}
            yield str(one.get("disaggregation_mode")), counts


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    """Empty if there is none."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=_ASK_S)) as response:
            return await response.text(errors="replace") if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""
