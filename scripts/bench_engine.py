#!/usr/bin/env python3
"""How fast is SGLang on this CPU with our attention, against its torch_native?

Two real servers with the embedded model and the same flags but for `--attention-backend`, each with the same
number of threads, are asked in turn: no two requests run at the same time. Every figure is the median of the
rounds with its lowest and highest; prompts are random token ids, new in every round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

OURS, PEER = "memserve_cpu", "torch_native"
START_SECONDS = 300
CONTEXT, PROMPT, CACHED, NEW = 512, 2048, 2000, 16
VOCABULARY = range(1000, 40000)


def machine(threads: int) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "sglang": version("sglang"),
    }


# --- the servers


class Server:
    def __init__(self, attention: str, threads: int, flags: Sequence[str], folder: Path) -> None:
        self.port = free_port()
        self.log = folder / f"{attention}.log"
        argv = [sys.executable, "-m", "sglang_memserve.launch_server", "--port", str(self.port)]
        argv += ["--attention-backend", attention, "--max-total-tokens", "32768", *flags]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                argv,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while "fired up and ready" not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                lines = [line[:300] for line in self.log.read_text(errors="replace").splitlines()]
                raise SystemExit("\n".join(["the server did not start:", *lines[-15:]]))
            time.sleep(0.5)

    def stop(self) -> None:
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        for process in family:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()

    def generate(self, prompts: list[list[int]], new: int) -> Iterator[list[int]]:
        """How many tokens each prompt has so far, whenever the server says so."""
        body = {
            "input_ids": prompts,
            "sampling_params": {"temperature": 0, "max_new_tokens": new, "ignore_eos": True},
            "stream": True,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/generate",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        done = [0] * len(prompts)
        with urllib.request.urlopen(request, timeout=300) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    done[event.get("index", 0)] = event["meta_info"]["completion_tokens"]
                    yield done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- measuring


def prompt(tokens: int) -> list[int]:
    return [random.choice(VOCABULARY) for _ in range(tokens)]


def decode_rate(server: Server, batch: int, steps: int) -> float:
    """Tokens a second while all of the batch decode at about CONTEXT, from the median of their steps."""
    reached: dict[int, float] = {}
    for done in server.generate([prompt(CONTEXT - steps // 2) for _ in range(batch)], steps):
        if min(done) > 0:
            reached.setdefault(min(done), time.perf_counter())
    times = [reached[count] for count in sorted(reached)]
    return batch / statistics.median(later - earlier for earlier, later in pairwise(times))


def seconds(server: Server, tokens: list[int]) -> float:
    """From the request to its one token."""
    start = time.perf_counter()
    for _ in server.generate([tokens], 1):
        pass
    return time.perf_counter() - start


def measure(server: Server, steps: int) -> dict[str, float]:
    cached = prompt(CACHED)
    seconds(server, cached)
    return {
        "decode_b8_tokens_per_s": decode_rate(server, 8, steps),
        "decode_b1_tokens_per_s": decode_rate(server, 1, steps),
        "prefill_2048_s": seconds(server, prompt(PROMPT)),
        "prefill_16_on_2000_s": seconds(server, cached + prompt(NEW)),
    }


def rounds(servers: dict[str, Server], count: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Samples by server and figure. The servers take turns, and take turns at being the first."""
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in servers}
    for server in servers.values():
        seconds(server, prompt(CONTEXT))
    for number in range(count):
        order = list(servers) if number % 2 else list(servers)[::-1]
        for name in order:
            for figure, value in measure(servers[name], steps).items():
                samples[name].setdefault(figure, []).append(value)
        print(f"round {number + 1} of {count}", file=sys.stderr)
    return samples


# --- reporting


def bar(
    samples: dict[str, dict[str, list[float]]], name: str, figure: str, at_least: float
) -> dict[str, Any]:
    """A ratio that is above 1 where ours is faster."""
    ours, peer = (statistics.median(samples[side][figure]) for side in (OURS, PEER))
    ratio = ours / peer if figure.endswith("per_s") else peer / ours
    return {
        "name": name,
        "value": round(ratio, 3),
        "unit": "x",
        "peer": PEER,
        "bar": at_least,
        "ok": ratio >= at_least,
    }


def bars(samples: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    few = bar(samples, "16 new tokens on 2,000 cached, share of the time", "prefill_16_on_2000_s", 0)
    share = 1 / few["value"]
    return [
        bar(samples, "decode, batch 8, context 512", "decode_b8_tokens_per_s", 2.5),
        bar(samples, "decode, batch 1, context 512", "decode_b1_tokens_per_s", 1.0),
        bar(samples, "prefill, 2,048 tokens", "prefill_2048_s", 1.3),
        few | {"value": round(share, 3), "bar": 0.15, "ok": share <= 0.15},
    ]


def summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="tokens a request decodes")
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("flags", nargs="*", help="after --: more flags for both servers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = {}
        for name in (OURS, PEER):
            servers[name] = Server(name, args.threads, args.flags, Path(folder))
            stack.callback(servers[name].stop)
        for server in servers.values():
            server.wait()
        samples = rounds(servers, args.rounds, args.steps)
    results = {name: {k: summary(v) for k, v in figures.items()} for name, figures in samples.items()}
    checked = bars(samples)
    for name, figures in results.items():
        for figure, values in figures.items():
            print(
                f"{name:13} {figure:24} {values['median']:9.3f}  [{values['low']:.3f}, {values['high']:.3f}]"
            )
    for line in checked:
        print(
            f"{line['name']:50} {line['value']:7.3f}  bar {line['bar']}  {'ok' if line['ok'] else 'MISSED'}"
        )
    if args.json:
        print(json.dumps({"machine": machine(args.threads), "results": results, "bars": checked}))
    return 0 if all(line["ok"] for line in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
