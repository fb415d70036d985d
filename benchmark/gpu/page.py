"""The report as a page of the documentation, in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SPREAD = {"median", "low", "high"}


def rendered(report: Mapping[str, Any]) -> str:
    """`report`: as the JSON file has it."""
    parts = [
        "# On a GPU: results",
        _introduction(report),
        _table(
            ("step", "what it looks at", "outcome", "minutes", "in a line"),
            [
                (step["name"], step["about"], step["status"], f"{step['seconds'] / 60:.1f}", step["summary"])
                for step in report["steps"]
            ],
        ),
    ]
    if report["not_run"]:
        parts.append(f"Not run: {', '.join(report['not_run'])}.")
    for step in report["steps"]:
        if step["figures"]:
            parts += [f"## {step['name']}", *_measured(step["figures"])]
    parts += ["## Commands", _table(("step", "command"), [_command(step) for step in report["steps"]])]
    return "\n\n".join(parts) + "\n"


def _introduction(report: Mapping[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    found = [f"{gpu['name']} ({gpu['gb']} GB)" for gpu in machine.get("gpus", ())]
    gpus = ", ".join(found) or "no GPU: a trial"
    versions = (f"{name} {value}" for name, value in machine.items() if isinstance(value, str | int))
    return (
        f"`scripts/test_gpu.sh` on {report['began']}: {gpus}; model {settings['model']}, "
        f"MLA model {settings['mla_model']}.\n\n{'; '.join(versions)}."
    )


def _command(step: Mapping[str, Any]) -> tuple[str, str]:
    return step["name"], f"`{step['command']}`"


def _measured(figures: Mapping[str, Any]) -> Iterator[str]:
    if bars := figures.get("bars"):
        rows = [
            (
                bar["name"],
                f"{_number(bar['value'])} {bar['unit']}",
                _number(bar["bar"]),
                bar.get("peer", "-"),
                "met" if bar["ok"] else "missed",
            )
            for bar in bars
        ]
        yield _table(("bar", "value", "bar", "against", "outcome"), rows)
    others: dict[str, Any] = {}
    for name, found in figures.get("results", {}).items():
        if _is_rounds(found):
            yield _rounds(name, found)
        else:
            others[name] = found
    if others:
        yield _table(("result", "value"), list(_flat(others)))
    for reason in figures.get("skipped", ()):
        yield f"Skipped: {reason}."


def _is_rounds(found: Any) -> bool:
    """Whether it is figures by arm, each with the spread of its rounds."""
    arms = list(found.values()) if isinstance(found, Mapping) else []
    spreads = [figure for arm in arms if isinstance(arm, Mapping) for figure in arm.values()]
    return bool(spreads) and all(isinstance(each, Mapping) and set(each) == _SPREAD for each in spreads)


def _rounds(title: str, arms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    names = dict.fromkeys(name for figures in arms.values() for name in figures)
    rows = [(name, *(_spread(figures.get(name)) for figures in arms.values())) for name in names]
    return _table((title, *arms), rows)


def _spread(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{_number(found['median'])} ({_number(found['low'])} to {_number(found['high'])})"


def _flat(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", _number(value)


def _number(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
