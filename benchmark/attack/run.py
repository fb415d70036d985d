"""The attack: an honest client alone, then beside throwers at every socket, and what became of everything."""

import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmark.attack.cluster import Cluster, running_cluster
from benchmark.attack.honest import HonestClient
from benchmark.attack.throwing import KINDS, throw
from sglang_memserve.bench.figures import percentile

MAX_GROWN_BYTES = 64 << 20
# Half of all inputs: it has as many endpoints as all others have messages.
_ROUTER_WEIGHT = len(KINDS) - 1.0
_BATCH = 500
_SETTLE_S = 2.0
_SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Attack:
    """`inputs` in all at these sockets, from `throwers` processes at once, after `warm_up` of them, which are
    not judged. The honest client is alone for `alone_s` before. `spare`: the throwers take no CPU time that
    anything else wants.
    """

    inputs: int
    warm_up: int = 3000
    alone_s: float = 20.0
    throwers: int = 2
    seed: int = 1
    sockets: tuple[str, ...] = KINDS
    spare: bool = False


@dataclass
class Outcome:
    thrown: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    processes: dict[str, dict[str, Any]] = field(default_factory=dict)
    honest: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def harm(self) -> list[str]:
        """What an attack must not do, and did."""
        done = [f"{count} times {answer}" for answer, count in self.answers.items() if _is_failure(answer)]
        for name, seen in self.processes.items():
            if not seen["alive"] or seen["threads_ended"] or seen["tracebacks"]:
                done.append(f"{name}: {seen}")
            elif seen["grown_bytes"] > MAX_GROWN_BYTES:
                done.append(f"{name} grew by {seen['grown_bytes'] >> 20} MiB")
        return done

    def describe(self) -> dict[str, Any]:
        return {
            "thrown": dict(self.thrown),
            "answers": dict(sorted(self.answers.items())),
            "processes": self.processes,
            "honest": self.honest,
            "seconds": round(self.seconds, 1),
            "harm": self.harm,
        }


def run(attack: Attack, folder: Path) -> Outcome:
    """Logs go to `folder`. Raises what goes wrong for the honest client."""
    outcome = Outcome()
    pool = ProcessPoolExecutor(attack.throwers, _SPAWN, _give_way if attack.spare else None)
    with running_cluster(folder) as cluster, pool as throwers:
        # What a process keeps after its first use of everything is no growth.
        warm_up = replace(attack, inputs=attack.warm_up, seed=attack.seed + 1_000_000)
        _throw(throwers, warm_up, cluster, Outcome())
        with HonestClient(cluster.endpoints) as honest:
            time.sleep(attack.alone_s)
            outcome.honest["alone"] = _figures(honest)
            honest.seconds.clear()
            for target in cluster.targets:
                target.look()
            began = time.monotonic()
            _throw(throwers, attack, cluster, outcome)
            outcome.seconds = time.monotonic() - began
            outcome.honest["beside"] = _figures(honest)
            time.sleep(_SETTLE_S)
        for target in cluster.targets:
            outcome.processes[target.name] = target.verdict()
    return outcome


def _give_way() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _throw(throwers: ProcessPoolExecutor, attack: Attack, cluster: Cluster, outcome: Outcome) -> None:
    thrown = [
        (kind, throwers.submit(throw, kind, cluster.endpoints[kind], count, seed))
        for kind, count, seed in _batches(attack)
    ]
    for kind, counted in thrown:
        answers = counted.result()
        outcome.thrown[kind] += answers.pop("inputs")
        outcome.answers.update(answers)


def _batches(attack: Attack) -> list[tuple[str, int, int]]:
    """Kind, number and seed of each batch; all kinds are under way all the time."""
    weights = {kind: _ROUTER_WEIGHT if kind == "router" else 1.0 for kind in attack.sockets}
    shares = {kind: weight / sum(weights.values()) for kind, weight in weights.items()}
    batches = [
        (begin / count, kind, min(_BATCH, count - begin))
        for kind, count in ((kind, round(attack.inputs * share)) for kind, share in shares.items())
        for begin in range(0, count, _BATCH)
    ]
    return [(kind, count, attack.seed * 1_000_003 + n) for n, (_, kind, count) in enumerate(sorted(batches))]


def _figures(honest: HonestClient) -> dict[str, float]:
    return {
        f"{name}_{label}_ms": round(1e3 * percentile(list(seconds), share), 2)
        for name, seconds in honest.seconds.items()
        for label, share in (("p50", 0.5), ("p99", 0.99))
        if seconds
    }


def _is_failure(answer: str) -> bool:
    # "unanswered" is none: by its own framing a request may be one that has not ended, and is waited for.
    return answer.startswith("answered 5")
