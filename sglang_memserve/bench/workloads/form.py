"""A workload: sessions of turns, as every generator and loader makes them and every client replays them.

The prompt of turn n is the tokens of turn 1, the answer to it, the tokens of turn 2, ... the tokens of turn
n. Turn n is sent only after answer n-1 has come, and its prompt holds the answer that really came. Prefixes
are shared where sessions begin with equal tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadTurn:
    """What is added to the conversation before an answer of `output_tokens`.

    `tokens`: the added token ids (after the previous answer). `text`: the same as text, where the source has
    one (else None). `after`: seconds between the end of the previous answer and this turn (0 for the first).
    """

    tokens: tuple[int, ...]
    output_tokens: int
    text: str | None = None
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkloadSession:
    """`arrival`: seconds after the start at which its first turn is sent."""

    name: str
    arrival: float
    turns: tuple[WorkloadTurn, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    sessions: tuple[WorkloadSession, ...]  # in order of arrival
