"""`memserve bench`: systems compared under the same open-loop load."""

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from sglang_memserve.cli.address import URL_VARIABLE, checked_url, key_of
from sglang_memserve.cli.engine import PUT_AFTER, require_engine

_EXAMPLES = """\
examples:
  memserve bench --workload sharegpt --arms colocated,stock-pd,memserve-pd --plot out/
  memserve bench --workload no-sharing --arms colocated,colocated-no-radix
  memserve bench --url mine=http://10.0.0.5:30000 --url theirs=http://10.0.0.6:30000 --rates 1,2,4
  memserve bench --url api=https://example.com --api chat --traces DIR --tokenizer MODEL

Every arm gets the same sessions at the same moments, in rounds, whether or not it keeps up.
docs/benchmarking.md says what is held constant, and what the figures do not show."""


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="compare systems under the same open-loop load",
        description="Starts systems on this machine (--arms), or takes some that run already (--url), "
        "replays the same workload on each in turn, and reports latencies, load and errors.",
        epilog=_EXAMPLES,
        passed_on=PUT_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list arms and workloads, and exit")
    for title, flags in _flags().items():
        group = parser.add_argument_group(title)
        for name, text, how in flags:
            group.add_argument(name, default=None, help=text, **how)
    parser.set_defaults(command=run, passes_on=True)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Returns 0 when all was measured, 1 for an error, 2 for a wrong value, 130 after Ctrl-C."""
    # Imported here, so that no other command loads it.
    from sglang_memserve.bench import children
    from sglang_memserve.bench.serving import arms
    from sglang_memserve.bench.serving.benchmark import benchmark
    from sglang_memserve.bench.serving.options import BenchOptions

    if args.list:
        print(listed())
        return 0
    names = [field.name for field in dataclasses.fields(BenchOptions)]
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    given["api_key"] = args.api_key or key_of()
    if args.arms:
        require_engine("memserve bench --arms")
    given["urls"] = _urls(args.urls or [], bool(args.arms))
    options = BenchOptions(**given, extra=tuple(passed_on))
    for name in options.arms:
        arms.named(name)
    for url in options.urls:
        arms.running(url)
    return children.run(benchmark(options))


def _urls(named: list[str], arms: bool) -> list[str]:
    """The running systems, NAME=URL; MEMSERVE_URL's where neither they nor arms are named."""
    variable = os.environ.get(URL_VARIABLE)
    if named or arms or not variable:
        return named
    return [f"router={checked_url(variable, URL_VARIABLE)}"]


def listed() -> str:
    """Arms and workloads for a reader."""
    from sglang_memserve.bench.serving.arms import ARMS
    from sglang_memserve.bench.workloads.named import option_names, trace_files, workload_names

    lines = ["arms:", *(f"  {arm.name:<24}{arm.about}" for arm in ARMS.values()), "", "workloads:"]
    for name in workload_names():
        lines.append(f"  {name:<20}options: {', '.join(option_names(name))}")
        lines += [f"  {'':<20}read from {file} in --traces" for file in trace_files(name)]
    return "\n".join(lines)


def _flags() -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """By group: name, help, and what argparse is to do with it. Defaults are those of Options."""
    number, amount = {"type": _count, "metavar": "N"}, {"type": _positive}
    return {
        "systems": [
            ("--arms", "systems to start, see --list", {"type": _names, "metavar": "NAME,NAME"}),
            ("--url", _URL, _many("urls", str, "NAME=URL")),
            ("--api", _API, {"choices": ("generate", "generate-text", "completions", "chat")}),
            ("--request-model", "`model` in requests of OpenAI's forms", {"metavar": "NAME"}),
            ("--no-ignore-eos", _EOS, {"action": "store_false", "dest": "ignore_eos"}),
            ("--api-key", "API key for every system (default: MEMSERVE_API_KEY)", {"metavar": "KEY"}),
        ],
        "workload": [
            ("--workload", "see --list (default: sharegpt)", {"metavar": "NAME"}),
            ("--traces", "folder to read the workload from, if it has the file", _path("DIR")),
            ("--tokenizer", "a model's folder or tokenizer.json, for texts", {"metavar": "MODEL"}),
            ("--sessions", "number of sessions (default: by the machine)", number),
            ("--rates", _RATES, {"type": _rates, "metavar": "R,R"}),
            ("--scale", "factor for all lengths (default: by the machine)", amount | {"metavar": "S"}),
            (
                "--max-context",
                "maximum context of a session, before scaling",
                {"type": _count, "metavar": "TOKENS"},
            ),
            ("--vocabulary", "range of generated token ids", _VOCABULARY),
            ("--seed", "seed of lengths, tokens, arrivals and order", {"type": int, "metavar": "N"}),
            ("--option", "option of the workload; repeatable", _many("more", _option, "NAME=JSON")),
        ],
        "measurement": [
            ("--rounds", "rounds; each measures every arm once (default: 3)", number),
            ("--slo-ttft", "limit of TTFT for goodput", amount | {"metavar": "MS"}),
            ("--slo-tpot", "limit of TPOT for goodput", amount | {"metavar": "MS"}),
            ("--timeout", "timeout of a request (default: 120)", amount | {"metavar": "S"}),
            ("--run-timeout", "timeout of a run of an arm (default: 600)", amount | {"metavar": "S"}),
            ("--up", _UP, {"choices": ("auto", "together", "in-turn")}),
        ],
        "instances that --arms starts (SGLang's own flags follow after `--`)": [
            ("--model", "a local folder or a hub name (default: the embedded model)", {}),
            ("--attention-backend", "attention backend of every instance", {"metavar": "NAME"}),
            ("--threads", "threads of every instance (default: 1)", number),
            ("--pool-tokens", "KV pool of every instance (default: 16384)", number),
            ("--port", "first port to try (default: 39000)", number),
            ("--log-dir", "folder for the logs", _path("DIR")),
            ("--peers", "folder that scripts/setup_peers.sh has installed into", _path("DIR")),
        ],
        "report": [
            ("--json", "print the report as JSON too, last", {"action": "store_true"}),
            ("--plot", "draw rates, cdf and timeline here (needs matplotlib)", _path("DIR")),
            ("--plot-format", "of the drawings (default: svg)", {"choices": ("png", "svg")}),
            ("--records", "file for a line of JSON for each request", _path("FILE")),
        ],
    }


_URL = "a system that runs already; repeatable (default: MEMSERVE_URL, as router)"
_API = "SGLang's own form, by token ids (the default) or text, or OpenAI's, by text"
_EOS = "let answers end where the model ends them: for servers that do not know ignore_eos"
_RATES = "sessions a second, one run each; `trace` for a trace's own times (default: by the machine)"
_UP = "all arms at once, or each started for its turn (default: at once if memory allows)"
_VOCABULARY: dict[str, Any] = {"type": int, "nargs": 2, "metavar": ("LOW", "HIGH")}


def _path(name: str) -> dict[str, Any]:
    return {"type": Path, "metavar": name}


def _many(field: str, kind: Any, name: str) -> dict[str, Any]:
    return {"action": "append", "dest": field, "type": kind, "metavar": name}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _rates(text: str) -> tuple[float | None, ...]:
    return tuple(None if rate == "trace" else _positive(rate) for rate in text.split(","))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        read = json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE, as in document=[300,400]") from None
    return name, tuple(read) if isinstance(read, list) else read
