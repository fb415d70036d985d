"""From the records of a run to the figures of its report."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_memserve.bench.figures import percentile
from sglang_memserve.bench.serving.answer import ReplayRecord, StreamedAnswer
from sglang_memserve.bench.serving.replay import ReplayResult
from sglang_memserve.bench.workloads.form import Workload


@dataclass(frozen=True)
class Slo:
    """Limits that a good request keeps, in seconds. None is no limit."""

    ttft: float | None = None
    tpot: float | None = None

    def met(self, answer: StreamedAnswer) -> bool:
        """An answer of one token has no time per token, and so cannot miss that limit."""
        return not (
            (self.ttft is not None and answer.ttft > self.ttft)
            or (self.tpot is not None and (answer.tpot or 0.0) > self.tpot)
        )


def figures(run: ReplayResult, slo: Slo) -> dict[str, float]:
    """A run's figures by name. A figure that no answer reports is left out.

    Latencies are of answered requests, in ms; rates per second of the run; shares in percent of the requests
    planned (failed, unsent) or of the prompts' tokens (cached).
    """
    answers = answered(run.records)
    failed = len(run.records) - len(answers)
    late = [1e3 * record.late for record in run.records]
    return {
        **_latencies("ttft", (answer.ttft for answer in answers)),
        **_latencies("tpot", (answer.tpot for answer in answers if answer.tpot is not None)),
        **_latencies("jct", (answer.end for answer in answers)),
        "sent_per_s": len(run.records) / run.seconds,
        "served_per_s": len(answers) / run.seconds,
        "goodput_per_s": sum(map(slo.met, answers)) / run.seconds,
        "failed_percent": 100 * failed / run.planned,
        "unsent_percent": 100 * run.unsent / run.planned,
        **_tokens(answers),
        "short_answers": sum(
            record.answer is not None and record.answer.tokens < record.asked_tokens for record in run.records
        ),
        **({"late_p99_ms": percentile(late, 0.99)} if late else {}),
        "run_s": run.seconds,
    }


def answered(records: Iterable[ReplayRecord]) -> list[StreamedAnswer]:
    return [record.answer for record in records if record.answer is not None]


def errors(records: Iterable[ReplayRecord]) -> Counter[str]:
    """How often each error was met."""
    return Counter(record.error for record in records if record.error is not None)


def offered_per_s(workload: Workload) -> float | None:
    """Requests a second that the workload asks for while its sessions arrive; None if they arrive at once."""
    arrivals = [session.arrival for session in workload.sessions]
    span = arrivals[-1] - arrivals[0]
    if span <= 0:
        return None
    turns = sum(len(session.turns) for session in workload.sessions)
    return turns / len(arrivals) * (len(arrivals) - 1) / span


def _latencies(name: str, seconds: Iterable[float]) -> dict[str, float]:
    values = [1e3 * value for value in seconds]
    if not values:
        return {}
    return {
        f"{name}_avg_ms": statistics.fmean(values),
        f"{name}_p50_ms": percentile(values, 0.5),
        f"{name}_p99_ms": percentile(values, 0.99),
    }


def _tokens(answers: Sequence[StreamedAnswer]) -> dict[str, float]:
    """Tokens of the prompts by where their KV came from, over the answers that report it, and of answers."""
    telling = [a for a in answers if a.prompt_tokens is not None and a.cached_tokens is not None]
    prompt = sum(answer.prompt_tokens or 0 for answer in telling)
    cached = sum(answer.cached_tokens or 0 for answer in telling)
    by_source: Counter[str] = Counter()
    for answer in telling:
        by_source.update(answer.cached_by)
    totals = {
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "computed_tokens": prompt - cached,
        **{f"cached_{source}_tokens": tokens for source, tokens in by_source.items()},
        "cached_percent": 100 * cached / prompt if prompt else 0.0,
    }
    return {**(totals if telling else {}), "output_tokens": sum(answer.tokens for answer in answers)}
