#!/usr/bin/env python3
"""What do the MemPool's allocator, index and transfers cost, against those that do the same?

Six parts, each with its peer in the same run and in turn with it:
- allocation: alloc and free in batches of 1,000, a million blocks, half of them free, by chance: a hundred
  batches are taken, then the hundred that were held longest freed. The paper says 800 ns a block.
- index: match, and insert of new sequences, of 4,096 tokens at page 16, in indexes of 10K, 100K and 1M
  blocks; sequences are one run each, or 8 nodes of 512 tokens ("in 8 calls": inserted as these grow; "in
  place": after as much was evicted). Against SGLang's RadixCache.create_simulated() of the same sequences,
  four calls each in turn, each in a process of its own; SGLang's Rust core beside them, without a bar.
  Arguments are made before a call is timed, as each wants them; garbage collection is off in the call.
  Memory a block: what the resident memory of the process grows by.
- throughput: 512 MiB between two processes over TCP loopback, in blocks of 64 KiB, 1 MiB and 8 MiB that lie
  scattered at both sides (128 MiB of memory each): our block channel into a DRAM arena, until acknowledged,
  over its own streams, over shared memory (against the streams: speed, and CPU seconds of both processes for
  a GB) and, without a bar, over ZeroMQ;
  one socket with sendall and recv_into a block; Mooncake's TransferEngine (scripts/setup_peers.sh) with its
  defaults, 1,024 blocks a batch as its queue takes no more; and, without a bar, torch.distributed: a group of
  two ranks, a message a block, 32 under way, over gloo (NCCL, from GPU to GPU, where there are two of them).
  Every byte is checked to have landed.
- fairness: 64 KiB transfers, one after the other, while 1 GB flows to the same receiver, of the same sender
  or of another; and while nothing else flows.
- modes: the paper's figure. Messages and seconds for the KV of 512 to 8,192 tokens of Llama-2-13B at TP2 (40
  layers, 20 heads of 128, bfloat16, page 16): by-layer and by-request out of an engine's buffers, aggregated
  out of aggregated blocks, and aggregated ones gathered out of an engine's buffers on the way. Nothing is
  computed meanwhile, which is what by-layer is for. --plot draws it.
- parts: a prefix of 128 MiB that three instances have, fetched from one of them and from all three at once,
  each link bounded to 100 MB/s by the kernel's pacing.

Figures are medians of the rounds with lowest and highest; ratios are of one round's pair.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmark import command
from benchmark.bars import conclude
from benchmark.mempool import allocation, fairness, index, modes, parts, throughput
from benchmark.mempool.plan import MeasurementPlan, say
from sglang_memserve.bench.chart import FORMATS, require_matplotlib
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.machine import machine_description

PEERS = StockPeers(Path(__file__).resolve().parents[1] / ".peers")
PARTS = {
    "allocation": allocation,
    "index": index,
    "throughput": throughput,
    "fairness": fairness,
    "modes": modes,
    "parts": parts,
}


def where(found: dict[str, Any]) -> str:
    return f"{found['cpu']}, {found['cores']} cores"


def benchmark(options: argparse.Namespace) -> None:
    uses_peer = "throughput" in options.only and not options.without_peer
    if uses_peer:
        PEERS.require()
    if options.plot is not None:
        require_matplotlib()
    rounds, skipped = Rounds(), [f"{name}: --only" for name in PARTS if name not in options.only]
    with tempfile.TemporaryDirectory(prefix="bench_mempool.") as folder:
        plan = MeasurementPlan(options.rounds, options.log_dir or Path(folder), PEERS if uses_peer else None)
        for name in options.only:
            skipped += PARTS[name].measure(rounds, plan)
    bars = [bar for part in PARTS.values() for bar in part.bars(rounds)]
    found = machine_description("numpy", "torch", "pyzmq", "sglang", "sglang-memserve") | PEERS.versions()
    if options.plot is not None:
        modes.figure(rounds, where(found)).save(options.plot)
        say(f"{options.plot} is written")
    print(rounds.table())
    conclude(found, rounds.results(), bars, skipped, json=options.json)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__, rounds=5, full="three times the rounds", peer="Mooncake")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw part modes: a .png or .svg")
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    options = parser.parse_args(arguments)
    if options.plot is not None and "modes" not in options.only:
        parser.error("--plot draws what part modes measures")
    if options.plot is not None and options.plot.suffix[1:] not in FORMATS:
        parser.error(f"--plot {options.plot}: give a .png or .svg")
    options.rounds *= 3 if options.full else 1
    return options


def main() -> int:
    options = parsed()
    return command.exit_status(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
