"""ReAct on HotpotQA: agents with one long few-shot prompt, which take some steps with an observation each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from msgspec import Struct

from sglang_memserve.bench.workloads import reading
from sglang_memserve.bench.workloads.assemble import Draft, assemble, generate
from sglang_memserve.bench.workloads.errors import refused
from sglang_memserve.bench.workloads.form import Workload, WorkloadTurn
from sglang_memserve.bench.workloads.lengths import Quantiles, Scaler
from sglang_memserve.bench.workloads.settings import PAPER_CONTEXT, Settings
from sglang_memserve.bench.workloads.tokens import TextEncoder, TokenSource

_SHOTS = "webthink_simple6"

# Measured on the logs of 103 questions with Llama-2's tokenizer: the quantiles, and at 1 what makes the mean
# the measured one (3.7 steps, 49.7 tokens of thought and action, 155 of observation). Questions: mean only,
# 26.6.
_STEPS = {2: 0.12, 3: 0.41, 4: 0.25, 5: 0.08, 6: 0.14}
_QUESTION = (3.2, 0.4)
_THOUGHT = Quantiles({0: 25, 0.05: 33, 0.25: 41, 0.5: 47, 0.75: 54, 0.9: 66, 0.95: 75, 0.99: 90, 1: 237})
_OBSERVATION = Quantiles(
    {0: 11, 0.05: 12, 0.25: 13, 0.5: 92, 0.75: 156, 0.9: 423, 0.95: 631, 0.99: 1012, 1: 1666}
)
# The shortest observations, one of each session's, say that it has ended: no prompt holds them.
_LAST_OBSERVATIONS = 1 / 3.7


@dataclass(frozen=True, kw_only=True)
class ReactSettings(Settings):
    """`prefix`: tokens of the instruction and its examples, with which all sessions begin."""

    max_context: int | None = PAPER_CONTEXT
    prefix: int = 1889

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("prefix", self.prefix >= 1, "expected at least 1")


class _Run(NamedTuple):
    """Lengths: of the question, of what is generated at each step, and of the observations between."""

    name: str
    question: float
    thoughts: Sequence[float]
    observations: Sequence[float]


class _TrajectoryLine(Struct):
    segments: list[tuple[Literal["q", "ta", "o"], reading.Count]]


def react(settings: ReactSettings) -> Workload:
    """Runs with the lengths of ReAct's logs."""
    runs = (_run(f"react-{n}", Random(f"{settings.seed} run {n}")) for n in count())
    return generate("react", settings, _drafts(settings, None, runs))


def _run(name: str, rng: Random) -> _Run:
    (steps,) = rng.choices(list(_STEPS), list(_STEPS.values()))
    return _Run(
        name,
        rng.lognormvariate(*_QUESTION),
        [_THOUGHT.draw(rng) for _ in range(steps)],
        [_OBSERVATION.at(rng.uniform(_LAST_OBSERVATIONS, 1)) for _ in range(steps - 1)],
    )


def react_lengths(
    path: Path, settings: ReactSettings, prompts: Path | None = None, tokenizer: TextEncoder | None = None
) -> Workload:
    """Runs of given lengths: lines of {"segments": [["q", 49], ["ta", 61], ["o", 65], ...]}.

    q is the question, ta a step's thought and action, which is generated, o the observation after it; the
    last one is left out, as nothing follows it. `prompts`, with a `tokenizer`: a JSON object whose
    webthink_simple6 is the common prefix's text. Without it the prefix is `settings.prefix` made-up tokens.
    """
    shots = _shots(prompts, tokenizer) if prompts and tokenizer else None
    lines = enumerate(reading.json_lines(path, _TrajectoryLine))
    runs = (_recorded(f"react-{n}", where, line) for n, (where, line) in lines)
    return assemble(f"react ({path.name})", settings, _drafts(settings, shots, runs))


def _drafts(settings: ReactSettings, shots: Sequence[int] | None, runs: Iterable[_Run]) -> Iterator[Draft]:
    tokens, scaled = TokenSource(settings.seed, settings.vocabulary), Scaler(settings.scale)
    shots = shots or tokens("react", settings.prefix)
    prefix = tuple(shots[: scaled("prefix", len(shots))])

    def turns(run: _Run) -> Iterator[WorkloadTurn]:
        question = tokens(f"{run.name} question", scaled("question", run.question))
        yield WorkloadTurn(prefix + question, scaled("thought", run.thoughts[0]))
        for n, (seen, thought) in enumerate(zip(run.observations, run.thoughts[1:], strict=True)):
            yield WorkloadTurn(
                tokens(f"{run.name} {n}", scaled("observation", seen)), scaled("thought", thought)
            )

    return (Draft(run.name, turns(run)) for run in runs)


def _shots(path: Path, tokenizer: TextEncoder) -> Sequence[int]:
    text = reading.json_file(path, dict[str, str]).get(_SHOTS)
    if not text:
        raise refused(str(path), _SHOTS, text, "expected the few-shot prompt")
    return tokenizer.encode(text)


def _recorded(name: str, where: str, line: _TrajectoryLine) -> _Run:
    kinds, lengths = zip(*line.segments, strict=True) if line.segments else ((), ())
    if kinds[:2] != ("q", "ta") or any(kind != ("o", "ta")[n % 2] for n, kind in enumerate(kinds[2:])):
        raise refused(where, "segments", line.segments, "expected a question, then steps of ta and o")
    thoughts = lengths[1::2]
    return _Run(name, lengths[0], thoughts, lengths[2::2][: len(thoughts) - 1])
