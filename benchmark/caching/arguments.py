"""The command line of scripts/bench_caching.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import command, device
from benchmark.caching import parts
from benchmark.caching.crossover import LENGTHS
from sglang_memserve.bench.serving.options import BenchOptions

_ROUNDS = 3
_LONGEST = 8000
_PARTS = "this part alone; repeatable (default: sharegpt; with --full all of them)"
_UP = "two systems at a time, or each for its turn (default: two if memory allows)"


@dataclass(frozen=True)
class CachingArguments:
    """`options` are what all parts have in common. `sessions`, `seed`: None where a part's own is meant."""

    parts: tuple[str, ...]
    sessions: int | None
    seed: int | None
    full: bool
    peer: bool
    lengths: tuple[int, ...]
    device: str
    options: BenchOptions

    def against(self, part: str) -> tuple[str, ...]:
        """The systems that a part compares with. None in the crossover."""
        found = parts.PARTS.get(part)
        return found.against(self.full, self.peer) if found else ()

    @property
    def skipped(self) -> list[str]:
        """What was left out of the default, or of --full, and why."""
        usual = parts.ALL if self.full else parts.DEFAULT
        left = [f"{name}: --part" for name in usual if name not in self.parts]
        return left + ([] if self.peer else [f"{parts.PEER}: --without-peer"])


def parsed(arguments: Sequence[str] | None, about: str, peers: Path) -> CachingArguments:
    """`peers`: the folder that scripts/setup_peers.sh filled. Exits with a message for a bad argument."""
    parser = _parser(about)
    found = parser.parse_args(arguments)
    if (page := found.page_size) < 1:
        parser.error(f"--page-size {page}: give at least 1")
    for tokens in found.lengths:
        if tokens % page or not 2 * page <= tokens <= _LONGEST:
            parser.error(f"--lengths {tokens}: give multiples of {page}, from {2 * page} to {_LONGEST}")
    for name, minimum in (("rounds", 1), ("sessions", 1), ("threads", 1)):
        if (value := getattr(found, name)) is not None and value < minimum:
            parser.error(f"--{name} {value}: give at least {minimum}")
    chosen = found.part or (parts.ALL if found.full else parts.DEFAULT)
    names = ("traces", "up", "model", "attention_backend", "page_size", "threads", "port", "log_dir")
    given = {name: value for name in names if (value := getattr(found, name)) is not None}
    options = BenchOptions(
        arms=(parts.PIVOT,), rounds=found.rounds, json=found.json, plot=found.plot, peers=peers, **given
    )
    return CachingArguments(
        parts=tuple(dict.fromkeys(chosen)),
        sessions=found.sessions,
        seed=found.seed,
        full=found.full,
        peer=not found.without_peer,
        lengths=tuple(found.lengths),
        device=found.device,
        options=options,
    )


def _parser(about: str) -> argparse.ArgumentParser:
    parser = command.parser(
        about, rounds=_ROUNDS, full="all parts, also against caching 1 and colocated", peer=parts.PEER
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the parts here, as SVG")
    parser.add_argument("--part", "--only", action="append", choices=parts.ALL, help=_PARTS)
    parser.add_argument("--sessions", type=int, help="in each part (default: the part's own)")
    parser.add_argument("--seed", type=int, help="of sessions and arrivals (default: the part's own)")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="read workloads from files here")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=list(LENGTHS), help="prompts of the crossover, in tokens"
    )
    parser.add_argument("--up", choices=("auto", "together", "in-turn"), help=_UP)
    device.add_flags(parser, "memserve_cpu")
    parser.add_argument("--threads", type=int, help="of every server (default: 1)")
    parser.add_argument("--port", type=int, help="takes free ports from here up (default: 39000)")
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    return parser
