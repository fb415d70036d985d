#!/usr/bin/env python3
"""How right is the cost model of prefill, and how much better than a polynomial of whole prefills?

- Here: one colocated instance of ours starts, `memserve calibrate --url` measures beside it as a user would
  have it, and then the instance prefills a grid that calibration has not seen: prompts of 64 to 6,000 tokens,
  0 to 95 % of them cached, 1 to 4 at a time, at most 8,192 tokens a batch. Measured is the whole request of
  one answer token over HTTP, which is what calibration fits too; each cell is the median of the rounds. The
  polynomial (1, x, y, xy, y^2 of x cached and y new tokens) is fitted on calibration's own prefills.
- On an H100: the operators are fitted on the rows of TP=1 in public tables (Vidur's Llama-2-7B layer and
  SGLang's attention), and predict the sum of the measured rows at TP=2 and 4: four matrices, two norms, two
  adds, rope and activation in each of 32 layers, and one embedding; then with two all-reduces a layer; then,
  at TP=2, with attention. The polynomial, fitted on TP=1's sums, is divided by TP. All-reduces have no row at
  TP=1: they are fitted on every second size of their own table.

Both are judged by the mean of |predicted / measured - 1|.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from benchmark import command, data
from benchmark.bars import Bar, at_most, conclude
from benchmark.cost import h100, live, tables
from benchmark.cost.grid import CELLS, grid
from benchmark.cost.live import ARCHITECTURE, OPERATORS, Live
from sglang_memserve.bench import children
from sglang_memserve.bench.chart import Chart, Panel, Point, require_matplotlib
from sglang_memserve.bench.clusters import EngineSpec, building
from sglang_memserve.cpu.attention import NAME as MEMSERVE_CPU
from sglang_memserve.machine import machine_description
from sglang_memserve.model import resolve_model

HERE_BAR, H100_BAR, CALIBRATION_BAR_S = 10.0, 12.0, 120.0
POLYNOMIAL = "polynomial of whole prefills"


def on_h100(folder: Path) -> dict[str, h100.Errors]:
    """By the rows that are summed."""
    profile, sums = h100.h100_profile(folder), h100.measured(folder)
    return {
        "matrices and memory-bound": h100.errors(profile, sums.computed, ("attention", "all_reduce")),
        "and all-reduces": h100.errors(profile, sums.linear, ("attention",)),
        "and attention": h100.errors(profile, sums.with_attention),
    }


async def here(options: argparse.Namespace) -> Live:
    engine = EngineSpec(
        model=resolve_model(options.model),
        attention_backend=options.attention_backend,
        threads=options.threads,
        pool_tokens=live.POOL_TOKENS,
        extra=live.ENGINE_FLAGS,
    )
    with tempfile.TemporaryDirectory(prefix="bench_cost_model.") as folder:
        async with building(engine, options.port, options.log_dir) as builder:
            return await live.measure(builder, Path(folder), grid(options.cells), options.rounds)


def live_bars(found: Live) -> list[Bar]:
    error, other = (100 * found.error(way) for way in (OPERATORS, ARCHITECTURE))
    return [
        at_most("calibration", found.calibration_s, CALIBRATION_BAR_S, "s", "two minutes"),
        at_most(
            "mean error of prefill time here", error, HERE_BAR, "%", f"measured; {POLYNOMIAL} {other:.1f} %"
        ),
    ]


def h100_bars(found: dict[str, h100.Errors]) -> list[Bar]:
    """The bar, or the polynomial's error where that is less."""
    bars = []
    for rows, errors in found.items():
        for tp in sorted(errors.operators.keys() - {1}):
            other = 100 * errors.architecture[tp]
            what, peer = f"mean error on H100, TP={tp}, {rows}", f"measured; {POLYNOMIAL} {other:.1f} %"
            bars.append(at_most(what, 100 * errors.operators[tp], min(H100_BAR, other), "%", peer))
    return bars


def plotted(found: Live) -> Chart:
    """Predicted over measured, in seconds."""
    panels = [
        Panel(
            x_label="measured (s)",
            y_label="predicted (s)",
            curves={way: [Point(found.median(cell), seconds) for cell, seconds in values.items()]},
            style="dots",
            diagonal=True,
        )
        for way, values in found.predicted.items()
    ]
    return Chart("Prefill time, predicted over measured", panels, same_axes=True)


def table(found: Live) -> str:
    """A row for each cell."""
    lines = [f"{'batch x (cached + new)':>24}  measured, s  " + "  ".join(found.predicted)]
    for cell in sorted(found.measured):
        errors = (
            f"{100 * (values[cell] / found.median(cell) - 1):+.1f} %".rjust(len(way))
            for way, values in found.predicted.items()
        )
        lines.append(f"{cell!s:>24}  {found.median(cell):>11.3f}  " + "  ".join(errors))
    return "\n".join(lines)


async def benchmark(options: argparse.Namespace) -> None:
    if options.plot:
        require_matplotlib()
    bars: list[Bar] = []
    results: dict[str, Any] = {}
    skipped: list[str] = []
    if missing := tables.missing(options.tables):
        skipped.append(f"H100: {options.tables} lacks {', '.join(missing)}: give --tables")
    else:
        found = on_h100(options.tables)
        results["h100"] = {rows: asdict(errors) for rows, errors in found.items()}
        bars += h100_bars(found)
    if options.only_h100:
        skipped.append("prefills here: --only-h100")
    else:
        measured = await here(options)
        print(table(measured))
        results["here"] = measured.results()
        results["profile"] = msgspec.to_builtins(measured.profile)
        bars += live_bars(measured)
        if options.plot:
            options.plot.mkdir(parents=True, exist_ok=True)
            plotted(measured).save(options.plot / "cost_model.svg")
    ours = {"attention_backend": options.attention_backend, "threads": options.threads}
    machine = machine_description("sglang", "torch", "sglang-memserve") | ours
    conclude(machine, results, bars, skipped, json=options.json)


def main() -> int:
    parser = command.parser(__doc__, rounds=3, full="three times the rounds", port=41000)
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw cost_model.svg here")
    parser.add_argument("--cells", type=int, default=CELLS, help=f"of the grid (default: {CELLS})")
    parser.add_argument("--only-h100", action="store_true", help="start nothing here")
    parser.add_argument(
        "--tables",
        type=Path,
        default=data.tables(),
        metavar="DIR",
        help=f"of the H100 (default: perf in {data.VARIABLE}, or in ../shared)",
    )
    parser.add_argument("--model", help="a local folder (default: the embedded model)")
    parser.add_argument("--attention-backend", default=MEMSERVE_CPU, help=f"(default: {MEMSERVE_CPU})")
    parser.add_argument("--threads", type=int, default=1, help="of the instance (default: 1)")
    parser.add_argument("--log-dir", type=Path, help="keep the instance's log here")
    options = parser.parse_args()
    options.rounds *= 3 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
