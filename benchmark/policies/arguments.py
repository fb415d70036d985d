"""The command line of scripts/bench_policies.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import command
from benchmark.policies.contenders import COST_MODEL, DEFAULT, PEER, POLICIES
from benchmark.policies.sessions import LOOGLE, USERS
from sglang_memserve.bench.serving.options import BenchOptions

_ROUNDS, _ROUNDS_FULL = 3, 5
# One at a time, and every document computed once, such a session takes 1.18 s of a core with all that it
# needs, as measured on two cores of an AMD EPYC with AVX-512: the rate asks for 65 % of both.
DOCUMENTS, RATE, SCALE = 12, 1.1, 0.25


@dataclass(frozen=True)
class PoliciesArguments:
    """`contenders`: in the order of the tables. `rate`: sessions a second. `profile`: for cost_model."""

    contenders: tuple[str, ...]
    rate: float
    options: BenchOptions
    skipped: tuple[str, ...]
    profile: Path | None = None


def parsed(arguments: Sequence[str] | None, about: str, peers: Path) -> PoliciesArguments:
    """`peers`: what scripts/setup_peers.sh filled. Exits with a message for what cannot be."""
    parser = command.parser(
        about, rounds=_ROUNDS, full=f"all policies, {_ROUNDS_FULL} rounds", port=39_000, peer=PEER
    )
    parser.set_defaults(rounds=None)
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the distributions here, as SVG")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="beside cost_model; repeatable")
    parser.add_argument(
        "--documents", type=int, default=DOCUMENTS, help=f"each for {USERS} users (%(default)s)"
    )
    parser.add_argument("--rate", type=float, default=RATE, help="sessions a second (%(default)s)")
    parser.add_argument("--scale", type=float, default=SCALE, help="all lengths times this (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sessions, arrivals and order (%(default)s)")
    parser.add_argument(
        "--profile", type=Path, help="what cost_model prices by, of memserve calibrate (default: built-in)"
    )
    parser.add_argument("--model", help="a local folder or a hub name (default: the embedded model)")
    parser.add_argument("--attention-backend", help="of every instance (default: memserve_cpu without a GPU)")
    parser.add_argument("--threads", type=int, default=1, help="of every instance (%(default)s)")
    parser.add_argument("--log-dir", type=Path, help="keep logs, decisions and all requests here")
    found = parser.parse_args(arguments)
    rounds = found.rounds if found.rounds is not None else _ROUNDS_FULL if found.full else _ROUNDS
    for name, value, minimum in (("rounds", rounds, 1), ("documents", found.documents, 1)):
        if value < minimum:
            parser.error(f"--{name} {value}: give at least {minimum}")
    if found.profile is not None and not found.profile.is_file():
        parser.error(f"--profile {found.profile}: there is no such file")
    if not found.rate > 0:
        parser.error(f"--rate {found.rate}: give more than 0")
    if not 0 < found.scale <= 1:
        parser.error(f"--scale {found.scale}: give more than 0 and at most 1")
    chosen = found.policy or (POLICIES if found.full else DEFAULT)
    ours = tuple(dict.fromkeys((COST_MODEL, *chosen)))
    usual = tuple(POLICIES) if found.full else DEFAULT
    skipped = [f"{name}: --policy" for name in usual if name not in ours]
    if found.without_peer:
        skipped.append(f"{PEER}: --without-peer")
    return PoliciesArguments(
        contenders=ours if found.without_peer else (*ours, PEER),
        rate=found.rate,
        options=BenchOptions(
            arms=(COST_MODEL,),
            workload="loogle",
            api="generate-text",
            more=tuple(LOOGLE.items()),
            sessions=found.documents,
            rates=(found.rate,),
            scale=found.scale,
            seed=found.seed,
            rounds=rounds,
            pool_tokens=32_768,
            model=found.model,
            attention_backend=found.attention_backend,
            threads=found.threads,
            port=found.port,
            log_dir=found.log_dir,
            records=found.log_dir,
            peers=peers,
            json=found.json,
            plot=found.plot,
        ),
        skipped=tuple(skipped),
        profile=found.profile,
    )
