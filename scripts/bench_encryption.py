#!/usr/bin/env python3
"""What does it cost to encrypt blocks on their way?

512 MiB between two processes over TCP loopback, in messages of 64 KiB and of 1 MiB that lie scattered at both
sides (128 MiB of memory each), until acknowledged: our block channel with a key for each transfer
(AES-128-GCM), against the same without. Both in each round, in turn. Every byte is checked to have landed.
The loopback has no network's delay, and both ends share the machine's cores: between hosts it costs less.

Figures are medians of the rounds with lowest and highest; ratios are of one round's pair.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmark import command
from benchmark.bars import conclude
from benchmark.mempool import encryption
from benchmark.mempool.plan import MeasurementPlan
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.machine import machine_description


def benchmark(options: argparse.Namespace) -> None:
    rounds = Rounds()
    with tempfile.TemporaryDirectory(prefix="bench_encryption.") as folder:
        encryption.measure(rounds, MeasurementPlan(options.rounds, options.log_dir or Path(folder), None))
    found = machine_description("numpy", "torch", "cryptography", "sglang-memserve")
    print(rounds.table())
    conclude(found, rounds.results(), encryption.bars(rounds), json=options.json)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__, rounds=5)
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    return parser.parse_args(arguments)


def main() -> int:
    options = parsed()
    return command.exit_status(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
