"""What issue 7 promises of the cost model, judged on the rounds."""

from collections.abc import Sequence

from benchmark.bars import Bar, at_most
from benchmark.caching.duels import Duel
from benchmark.policies.contenders import COST_MODEL, SESSION
from sglang_memserve.bench.serving.rounds import Lap

P99 = "ttft_p99_ms"
_SESSION_BAR = 0.7


def duels(laps: Sequence[Lap], contenders: Sequence[str]) -> list[Duel]:
    """The cost model with each of the others, whether or not that was measured."""
    return [
        Duel("", "", name, [lap for lap in laps if lap.arm in (COST_MODEL, name)], COST_MODEL)
        for name in contenders
        if name != COST_MODEL
    ]


def bars(duels: Sequence[Duel]) -> list[Bar]:
    """Against the session policy the median of the rounds' ratios. All others may not be better in that the
    slowest of their rounds is still faster than the cost model's fastest.
    """
    judged = []
    for duel in duels:
        if duel.partner == SESSION:
            judged.append(at_most("P99 TTFT", duel.ratio(P99), _SESSION_BAR, "x", SESSION))
        else:
            beyond = "P99 TTFT, fastest round over the slowest one of the other"
            judged.append(at_most(beyond, duel.best_ratio(P99), 1.0, "x", duel.partner))
    return judged
