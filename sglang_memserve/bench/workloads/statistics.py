"""The lengths in a workload, and how much of its prompts a cache could hold."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from sglang_memserve.bench.figures import percentile
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession


@dataclass(frozen=True)
class Amounts:
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Amounts":
        """ValueError for none."""
        found = list(values)
        return cls(fmean(found), *(percentile(found, share) for share in (0.5, 0.9, 0.99)))


@dataclass(frozen=True)
class Summary:
    """Lengths in tokens; answers are taken to be as long as asked for.

    `turns` of each session; of each request `added`, the tokens its turn adds, `prompt`, which has the
    history too, and `output`. `rate`: sessions a second. `reusable_share`: of all prompts' tokens, those that
    a cache without limit holds already, in whole pages, when each session comes after the ones that arrived
    before it.
    `reusable_share_of_request`: the mean of each request's own share.
    """

    name: str
    sessions: int
    requests: int
    seconds: float
    rate: float
    turns: Amounts
    added: Amounts
    prompt: Amounts
    output: Amounts
    page_size: int
    reusable_share: float
    reusable_share_of_request: float


def summarise(workload: Workload, page_size: int = 1) -> Summary:
    """ValueError for a workload without sessions. Answers are taken to be unlike all other tokens."""
    if not (sessions := workload.sessions):
        raise ValueError(f"the workload {workload.name} has no sessions")
    turns = [turn for session in sessions for turn in session.turns]
    prompts = [length for session in sessions for length in _prompts(session)]
    held = reusable(sessions, page_size)
    seconds = sessions[-1].arrival
    return Summary(
        name=workload.name,
        sessions=len(sessions),
        requests=len(turns),
        seconds=seconds,
        rate=len(sessions) / seconds if seconds else 0.0,
        turns=Amounts.of(len(session.turns) for session in sessions),
        added=Amounts.of(len(turn.tokens) for turn in turns),
        prompt=Amounts.of(prompts),
        output=Amounts.of(turn.output_tokens for turn in turns),
        page_size=page_size,
        reusable_share=sum(held) / sum(prompts),
        reusable_share_of_request=fmean(h / p for h, p in zip(held, prompts, strict=True)),
    )


def reusable(sessions: Sequence[WorkloadSession], page_size: int = 1) -> list[int]:
    """For each request, session by session, how many tokens of its prompt were there before, in whole pages.

    A first turn may begin as another session's did. A later one holds an answer, which no other session has,
    so its own history is all it can find.
    """
    held: list[int] = []
    before: list[bytes] = []  # the first turns so far, in such an order that the most alike are neighbours
    for session in sessions:
        first = array("I", session.turns[0].tokens).tobytes()
        place = bisect_left(before, first)
        found = max((_common(first, near) for near in before[max(0, place - 1) : place + 1]), default=0)
        insort(before, first)
        history = [
            prompt + turn.output_tokens
            for prompt, turn in zip(_prompts(session), session.turns[:-1], strict=False)
        ]
        held += [length // page_size * page_size for length in (found, *history)]
    return held


def _prompts(session: WorkloadSession) -> list[int]:
    lengths, history = [], 0
    for turn in session.turns:
        lengths.append(history + len(turn.tokens))
        history = lengths[-1] + turn.output_tokens
    return lengths


def _common(first: bytes, second: bytes) -> int:
    """How many tokens two sequences have in common at their beginning."""
    size = min(len(first), len(second)) // 4
    differ = np.frombuffer(first, np.uint32, size) != np.frombuffer(second, np.uint32, size)
    return int(differ.argmax()) if differ.any() else size
