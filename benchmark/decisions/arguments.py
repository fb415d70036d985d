"""The command line of scripts/bench_decisions.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import command
from benchmark.decisions.points import LENGTHS
from benchmark.decisions.two import PAGE
from sglang_memserve.cpu.attention import NAME as MEMSERVE_CPU

CROSSOVER, HOT = PARTS = ("crossover", "hot")
_LONGEST = 8000
_LEAST_MB_S = 2.0
_BANDWIDTHS = "of KV, in MB/s (default: where both ways are as fast for 512 tokens, 4 times that, a quarter)"
_RATES = "requests a second of the hot prefix (default: 0.5, 1 and 1.5 times what one instance can serve)"


@dataclass(frozen=True)
class DecisionsArguments:
    """`bandwidths`: bytes a second, the highest first; none: by the profile. `rates`: requests a second, each
    for `seconds`; none: by the profile. `profile`: a file; None: it is measured.
    """

    parts: tuple[str, ...] = PARTS
    lengths: tuple[int, ...] = LENGTHS
    rounds: int = 3
    bandwidths: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    seconds: float = 12.0
    seed: int = 0
    profile: Path | None = None
    model: str | None = None
    attention_backend: str = MEMSERVE_CPU
    threads: int = 1
    port: int = 43_000
    log_dir: Path | None = None
    json: bool = False


def parsed(arguments: Sequence[str] | None, about: str) -> DecisionsArguments:
    """Exits with a message for a bad argument."""
    parser = command.parser(about, rounds=DecisionsArguments.rounds, port=DecisionsArguments.port)
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="of prefixes, in tokens")
    parser.add_argument("--bandwidths", type=float, nargs="+", default=(), metavar="MB/s", help=_BANDWIDTHS)
    parser.add_argument("--rates", type=float, nargs="+", default=(), help=_RATES)
    parser.add_argument(
        "--seconds",
        type=float,
        default=DecisionsArguments.seconds,
        help="at each rate (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=DecisionsArguments.seed, help="of prompts and arrivals (default: 0)"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="of `memserve calibrate` here (default: measured now)"
    )
    parser.add_argument("--model", help="a local folder (default: the embedded model)")
    parser.add_argument("--attention-backend", default=MEMSERVE_CPU, help="(default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        default=DecisionsArguments.threads,
        help="of an instance (default: %(default)s)",
    )
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    found = parser.parse_args(arguments)
    for tokens in found.lengths:
        if tokens % PAGE or not PAGE <= tokens <= _LONGEST:
            parser.error(f"--lengths {tokens}: give multiples of {PAGE}, up to {_LONGEST}")
    for rate in found.bandwidths:
        if rate < _LEAST_MB_S:
            parser.error(f"--bandwidths {rate:g}: give at least {_LEAST_MB_S:g}")
    for name, values in (("rounds", [found.rounds]), ("rates", found.rates), ("seconds", [found.seconds])):
        if min(values, default=1) <= 0:
            parser.error(f"--{name} {min(values):g}: give more than 0")
    given = dict(vars(found))
    parts, bandwidths = given.pop("part"), given.pop("bandwidths")
    return DecisionsArguments(
        parts=tuple(part for part in PARTS if part in (parts or PARTS)),
        bandwidths=tuple(sorted((1e6 * rate for rate in bandwidths), reverse=True)),
        lengths=tuple(given.pop("lengths")),
        rates=tuple(given.pop("rates")),
        **given,
    )
