"""The table of a comparison, its JSON, and what a reader needs beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.serving.measure import Slo, errors
from sglang_memserve.bench.serving.rounds import Lap

_LATE_MS = 20.0
_ROWS = (
    ("TTFT average, ms", "ttft_avg_ms"),
    ("TTFT P50, ms", "ttft_p50_ms"),
    ("TTFT P99, ms", "ttft_p99_ms"),
    ("TPOT average, ms", "tpot_avg_ms"),
    ("TPOT P50, ms", "tpot_p50_ms"),
    ("TPOT P99, ms", "tpot_p99_ms"),
    ("JCT average, ms", "jct_avg_ms"),
    ("JCT P50, ms", "jct_p50_ms"),
    ("JCT P99, ms", "jct_p99_ms"),
    ("requests sent a second", "sent_per_s"),
    ("requests answered a second", "served_per_s"),
    ("within the SLO a second", "goodput_per_s"),
    ("requests failed, %", "failed_percent"),
    ("never sent (session had failed), %", "unsent_percent"),
    ("prompt tokens", "prompt_tokens"),
    ("of these from a cache", "cached_tokens"),
    ("of these computed", "computed_tokens"),
    ("from a cache, %", "cached_percent"),
    ("spared to prefill, %", "prefill_spared_percent"),
    ("tokens generated", "output_tokens"),
    ("KV from prefill to decode, MB", "kv_moved_mb"),
    ("KV of answers back to prefill, MB", "kv_written_back_mb"),
)
_LEGEND = """\
TTFT: from the request's write to its first token. TPOT: per token after the first. JCT: to the answer's end.
Each cell: median of the rounds (lowest - highest). P99 of fewer than 100 requests is the slowest of them.
Latencies are of answered requests alone: read them beside the requests failed and answered a second."""


def collected(laps: Sequence[Lap], arms: Sequence[str] = ()) -> Rounds:
    """The figures of all laps, in the order of `arms`."""
    rounds = Rounds()
    for lap in sorted(laps, key=lambda lap: arms.index(lap.arm) if lap.arm in arms else len(arms)):
        rounds.note(lap.workload, lap.arm, **lap.figures)
    return rounds


def tables(results: Mapping[str, Any], headings: Mapping[str, str], slo: Slo) -> str:
    """A table for each workload of `results`, which are as Rounds gives them. `headings` by workload."""
    parts = [f"{headings[workload]}\n{_table(arms, _slo(slo))}" for workload, arms in results.items()]
    return "\n\n".join([*parts, _LEGEND])


def warnings(laps: Sequence[Lap]) -> list[str]:
    """What makes a figure doubtful: a late client, errors, answers cut short."""
    found = []
    for lap in laps:
        where = f"{lap.workload}, {lap.arm}, round {lap.round}"
        found += [f"{where}: {count} x {error}" for error, count in errors(lap.run.records).most_common(3)]
        if short := int(lap.figures["short_answers"]):
            found.append(f"{where}: {short} answers are shorter than asked (stopped, or out of context)")
        if (late := lap.figures.get("late_p99_ms", 0.0)) > _LATE_MS:
            found.append(f"{where}: the client itself sent late, {late:.0f} ms at P99: do not trust its TTFT")
    return found


def records_jsonl(laps: Sequence[Lap]) -> bytes:
    """One line for each request of each run. Times in seconds."""
    return b"".join(_lines(lap) for lap in laps)


def _lines(lap: Lap) -> bytes:
    where = {"workload": lap.workload, "arm": lap.arm, "round": lap.round}
    return b"".join(orjson.dumps({**where, **_described(record)}) + b"\n" for record in lap.run.records)


def _described(record: Any) -> dict[str, Any]:
    answer = record.answer
    return {
        "session": record.session,
        "turn": record.turn,
        "planned": record.planned,
        "late": record.late,
        "error": record.error,
        "ttft": answer and answer.ttft,
        "tpot": answer and answer.tpot,
        "jct": answer and answer.end,
        "token_times": answer and answer.token_times,
        "prompt_tokens": answer and answer.prompt_tokens,
        "cached_tokens": answer and answer.cached_tokens,
        "output_tokens": answer and answer.tokens,
    }


def _table(arms: Mapping[str, Mapping[str, Any]], slo: str | None) -> str:
    rows = [["", *arms]]
    for label, figure in _ROWS:
        if figure == "goodput_per_s" and slo is None:
            continue
        cells = [_cell(figures.get(figure)) for figures in arms.values()]
        rows.append([f"{label} ({slo})" if figure == "goodput_per_s" else label, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _cell(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "not reported"
    low, high = _number(spread["low"]), _number(spread["high"])
    return _number(spread["median"]) + (f" ({low} - {high})" if low != high else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _slo(slo: Slo) -> str | None:
    limits = [("TTFT", slo.ttft), ("TPOT", slo.tpot)]
    said = [f"{name} <= {1e3 * limit:g} ms" for name, limit in limits if limit is not None]
    return ", ".join(said) or None
