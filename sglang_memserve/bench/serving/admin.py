"""What is asked of a system between the runs: to empty its caches, and what it has moved."""

import asyncio
import re
import time

import aiohttp

from sglang_memserve.bench.serving.arms import Target
from sglang_memserve.cluster.errors import ClusterError

_ASK_S = 10.0
_QUIET_S = 60.0
_MOVED_MIB = re.compile(r"^sglang:kv_transfer_total_mb_sum(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_WRITTEN_BACK = re.compile(r'"kv_bytes_sent_from_dram": ?(\d+)')


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


async def moved_mb(session: aiohttp.ClientSession, target: Target) -> dict[str, float]:
    """KV that the system has moved since its start, in MB, of what it tells.

    kv_moved_mb: from prefill to decode, as SGLang's own metrics count it (`--enable-metrics`), over whatever
    backend. kv_written_back_mb: from decode to prefill, as MemServe's instances count it.
    """
    moved: dict[str, float] = {}
    for url in target.administered:
        page = await _page(session, f"{url}/metrics")
        if "sglang:" in page:
            # Without a line for it, nothing was moved yet.
            found = sum(float(value) for value in _MOVED_MIB.findall(page)) * 1.048576
            moved["kv_moved_mb"] = moved.get("kv_moved_mb", 0.0) + found
        for count in _WRITTEN_BACK.findall(await _page(session, f"{url}/server_info")):
            moved["kv_written_back_mb"] = moved.get("kv_written_back_mb", 0.0) + int(count) / 1e6
    return moved


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    """Empty if there is none."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=_ASK_S)) as response:
            return await response.text(errors="replace") if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""
