"""From conversations of any source to a workload: what fits in the context, and when it arrives."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

from sglang_memserve.bench.workloads.errors import WorkloadError, refused
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn
from sglang_memserve.bench.workloads.settings import Settings

_TRIES = 20


class Draft(NamedTuple):
    """A conversation with as many turns as the source has. `time`: seconds, where a trace has them."""

    name: str
    turns: Iterable[WorkloadTurn]
    time: float | None = None


def assemble(name: str, settings: Settings, drafts: Iterable[Draft]) -> Workload:
    """The first `settings.sessions` of `drafts` of which a turn fits. Raises WorkloadError for none."""
    kept = list(islice(_fitting(drafts, settings.context), settings.sessions))
    if not kept:
        raise WorkloadError(
            f"{name}: no session fits in max_context {settings.max_context}: set a larger one"
        )
    arrivals = _arrivals(name, settings, [draft.time for draft in kept])
    sessions = [
        WorkloadSession(draft.name, at, tuple(draft.turns)) for draft, at in zip(kept, arrivals, strict=True)
    ]
    return Workload(name, tuple(sorted(sessions, key=lambda session: session.arrival)))


def generate(name: str, settings: Settings, drafts: Iterable[Draft]) -> Workload:
    """As many sessions as asked for, from endless `drafts`. Raises WorkloadError if too few fit."""
    if settings.sessions is None:
        raise refused(name, "sessions", None, "expected a number, as there is no file to end them")
    workload = assemble(name, settings, islice(drafts, _TRIES * settings.sessions))
    if (made := len(workload.sessions)) < settings.sessions:
        limit = f"max_context {settings.max_context}"
        raise WorkloadError(f"{name}: only {made} of {settings.sessions} sessions fit in {limit}")
    return workload


def cut_turn(settings: Settings, tokens: tuple[int, ...], answer: int) -> WorkloadTurn:
    """A session's only turn, with an answer that ends where the context does."""
    return WorkloadTurn(tokens, max(1, int(min(answer, settings.context - len(tokens)))))


def _fitting(drafts: Iterable[Draft], context: float) -> Iterator[Draft]:
    for draft in drafts:
        if turns := list(_first_turns(draft.turns, context)):
            yield draft._replace(turns=turns)


def _first_turns(turns: Iterable[WorkloadTurn], context: float) -> Iterator[WorkloadTurn]:
    length = 0
    for turn in turns:
        length += len(turn.tokens) + turn.output_tokens
        if length > context:
            return
        yield turn


def _arrivals(name: str, settings: Settings, times: Sequence[float | None]) -> list[float]:
    if settings.arrivals is not None:
        if len(settings.arrivals) != len(times):
            raise refused(
                name, "arrivals", settings.arrivals, f"expected {len(times)} times, one for each session"
            )
        return list(settings.arrivals)
    known = [time for time in times if time is not None]
    if len(known) == len(times):
        return _stretched(known, settings.rate)
    return _poisson(len(times), settings.rate or 1.0, settings.seed)


def _stretched(times: Sequence[float], rate: float | None) -> list[float]:
    start, span = min(times), max(times) - min(times)
    stretch = (len(times) - 1) / (span * rate) if rate and span else 1.0
    return [(time - start) * stretch for time in times]


def _poisson(count: int, rate: float, seed: int) -> list[float]:
    rng, now, times = Random(f"{seed} arrivals"), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        times.append(now)
    return times
