"""First tokens through systems of prefill and decode, one request at a time, and where their time goes."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from benchmark import device
from sglang_memserve.bench.clusters import EngineSpec, System
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.model import resolve_model

_CPU_ATTENTION = "torch_native"
_ANSWER_TOKENS = 4
_TOKEN_IDS = (1000, 40_000)  # ordinary tokens of any vocabulary
_REQUEST_S, STATS_S = 300.0, 10.0


@dataclass(frozen=True)
class Ways:
    """How to ask a system: over `session`; `stats` is the folder in which its prefill instance writes."""

    system: System
    session: aiohttp.ClientSession
    stats: Path

    async def flush(self) -> None:
        for instance in self.system.instances:
            async with self.session.post(f"{instance.url}/flush_cache") as response:
                if response.status != 200:
                    raise ClusterError(
                        f"{instance.url}/flush_cache: {response.status} {await response.text()}"
                    )

    async def ttft(self, tokens: list[int], rid: str) -> float:
        """Seconds to the first event. Raises ClusterError unless all of the answer comes."""
        sampling = {"max_new_tokens": _ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
        body = {"input_ids": tokens, "sampling_params": sampling, "stream": True, "rid": rid}
        start, first, answer = time.perf_counter(), 0.0, b""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S)
        async with self.session.post(f"{self.system.url}/generate", json=body, timeout=timeout) as response:
            async for part in response.content.iter_any():
                first = first or time.perf_counter() - start
                answer += part
        if response.status != 200 or b'"error"' in answer or not answer.rstrip().endswith(b"[DONE]"):
            raise ClusterError(f"{self.system.name} answered {response.status}: {answer[-500:]!r}")
        return first

    async def times(self, rid: str) -> tuple[float, float]:
        """P's own seconds for the request `rid` and those of its forward passes. Raises ClusterError."""
        deadline = time.monotonic() + STATS_S
        while time.monotonic() < deadline:
            for entry in map(orjson.loads, self._lines()):
                if entry.get("id") == rid:
                    end = entry["prefill_finished_time"]
                    return end - entry["request_received_ts"], end - entry["forward_entry_time"]
            await asyncio.sleep(0.05)
        raise ClusterError(
            f"{self.system.name}'s prefill instance wrote no times for {rid} within {STATS_S:.0f} s"
        )

    def _lines(self) -> list[bytes]:
        # The last line may be half-written.
        whole = (file.read_bytes().rpartition(b"\n")[0] for file in self.stats.glob("*.log"))
        return [line for text in whole for line in text.splitlines()]


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """What `engine_of` reads, and --log-dir."""
    device.add_flags(parser, _CPU_ATTENTION)
    parser.add_argument("--threads", type=int, default=1, help="of every server (default: 1)")
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")


def engine_of(options: argparse.Namespace) -> EngineSpec:
    """Raises UsageError for a device that this machine does not have, ModelError for a model that is none."""
    gpus = device.gpus_of(options.device)
    return EngineSpec(
        model=resolve_model(options.model),
        attention_backend=options.attention_backend or (device.GPU_ATTENTION if gpus else _CPU_ATTENTION),
        threads=options.threads,
        page_size=options.page_size,
        gpus=tuple(gpus),
        extra=device.GPU_FLAGS if gpus else (),
    )


def stats_flags(folder: Path) -> list[str]:
    return ["--enable-metrics", "--export-metrics-to-file", "--export-metrics-to-file-dir", str(folder)]


async def one_round(rounds: Rounds, ways: Sequence[Ways], tokens: int, name: str) -> None:
    """One prompt of `tokens` tokens, the same for each system."""
    prompt = random.Random(name).choices(range(*_TOKEN_IDS), k=tokens)
    for way in ways:
        await way.flush()
        seconds = await way.ttft(prompt, name)
        figures = {"ttft_ms": 1e3 * seconds}
        if len(way.system.instances) > 1:
            own, forward = await way.times(name)
            figures |= {"own_ms": 1e3 * own, "handoff_ms": 1e3 * (seconds - own)}
            figures["around_prefill_ms"] = 1e3 * (seconds - forward)
        rounds.note(f"{tokens} tokens", way.system.name, **figures)


async def all_rounds(
    rounds: Rounds, ways: Sequence[Ways], lengths: Sequence[int], count: int, phase: str
) -> None:
    for tokens in lengths:
        print(f"{phase}: {tokens} tokens", file=sys.stderr)
        await one_round(Rounds(), ways, tokens, f"{phase}-{tokens}-warm-up")
        for number in range(count):
            # In turn the other way round, so that no system always has the machine's better moments.
            order = ways if number % 2 == 0 else ways[::-1]
            await one_round(rounds, order, tokens, f"{phase}-{tokens}-{number}")


def ratio(rounds: Rounds, tokens: int, figure: str, ours: str, theirs: str) -> float | None:
    """Of the medians of `ours` and `theirs`; None where one was not measured."""
    return rounds.ratio(f"{tokens} tokens", figure, ours, theirs)
