"""What is promised of context caching, judged on the duels."""

from collections.abc import Sequence

from benchmark.bars import Bar, at_most
from benchmark.caching.duels import Duel
from benchmark.caching.parts import BASIC, MODE_2, PEER

_CHATS = "sharegpt"
_SHARING = (_CHATS, "loogle", "react")
_TTFT, _TPOT, _JCT = "ttft_avg_ms", "tpot_avg_ms", "jct_avg_ms"
_BASIC_BAR, _PEER_BAR, _TPOT_BAR = 0.4, 0.6, 1.1


def bars(parts: Sequence[str], duels: Sequence[Duel]) -> list[Bar]:
    """Those of `parts`: averages, and of the rounds' ratios the median unless it says otherwise.

    That write-back makes a first token earlier is judged on chats alone: a question about a document is not
    followed by another, and what an agent says is shorter than a page.
    """
    found = {(duel.part, duel.partner): duel for duel in duels}

    def duel(part: str, partner: str) -> Duel:
        return found.get((part, partner), Duel(part, "", partner, ()))

    judged = [
        at_most(f"{part}: TTFT", duel(part, BASIC).ratio(_TTFT), _BASIC_BAR, "x", BASIC)
        for part in _SHARING
        if part in parts
    ]
    if _CHATS in parts:
        judged += _write_back(duel(_CHATS, MODE_2))
        judged += _peer(duel(_CHATS, PEER))
    return judged


def _write_back(duel: Duel) -> list[Bar]:
    worst = duel.worst_ratio(_TTFT)
    beyond = f"{_CHATS}: TTFT, slowest round over the fastest one of the other"
    return [
        Bar(beyond, worst, "x", MODE_2, 1.0, worst is not None and worst < 1.0),
        at_most(f"{_CHATS}: TPOT, with write-back", duel.ratio(_TPOT), _TPOT_BAR, "x", MODE_2),
    ]


def _peer(duel: Duel) -> list[Bar]:
    return [
        at_most(f"{_CHATS}: TTFT", duel.ratio(_TTFT), _PEER_BAR, "x", PEER),
        at_most(f"{_CHATS}: JCT", duel.ratio(_JCT), 1.0, "x", PEER),
    ]
