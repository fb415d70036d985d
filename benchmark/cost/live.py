"""Prefills of an instance here, against what the model says of them after `memserve calibrate`."""

import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_high
from typing import Any

from benchmark.cost.architecture import ArchitectureFit
from benchmark.cost.grid import Cell
from router.cost import CostModel, ModelShape, Profile, load_profile
from router.cost.fitting import mean_error
from sglang_memserve.bench.clusters import Builder, System
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.calibrate.instance import PrefillProbe
from sglang_memserve.calibrate.shape import model_shape
from sglang_memserve.cluster.errors import ClusterError

OURS = "colocated"
OPERATORS, ARCHITECTURE = "by operator", "by architecture"
# Nothing of the grid is to be split, evicted while it is still to be asked for, or copied to DRAM beside the
# next cell. SGLang counts a batch by whole pages: one of 8,192 tokens may have more.
ENGINE_FLAGS = ("--chunked-prefill-size", "8448", "--max-prefill-tokens", "16384", "--memserve-dram", "0")
POOL_TOKENS = 65_536


@dataclass
class Live:
    """`predicted`: by way and cell, in seconds. `measured`: by cell, seconds of each round."""

    calibration_s: float
    profile: Profile
    predicted: dict[str, dict[Cell, float]]
    measured: dict[Cell, list[float]] = field(default_factory=dict)

    def median(self, cell: Cell) -> float:
        return median_high(self.measured[cell])

    def error(self, way: str) -> float:
        """Mean of |predicted / measured - 1| over the cells, each cell the median of its rounds."""
        predicted = self.predicted[way]
        return mean_error(predicted.values(), map(self.median, predicted))

    def results(self) -> dict[str, Any]:
        rounds = Rounds()
        for cell, seconds in self.measured.items():
            for value in seconds:
                rounds.note(str(cell), "measured", ms=1e3 * value)
            for way, values in self.predicted.items():
                rounds.note(str(cell), way, ms=1e3 * values[cell])
        return rounds.results()


async def measure(builder: Builder, folder: Path, cells: list[Cell], rounds: int) -> Live:
    """Starts an instance, calibrates beside it, and has it prefill `cells`. Raises ClusterError."""
    system = builder.colocated(OURS)
    async with builder.serving(system):
        begun, file = time.perf_counter(), folder / "profile.json"
        await calibrate(builder, system, file)
        calibration_s, profile = time.perf_counter() - begun, load_profile(file)
        shape = model_shape(builder.engine.model)
        live = Live(calibration_s, profile, predictions(profile, shape, cells))
        instance = PrefillProbe(builder.session, system.url, shape.vocab, builder.engine.page_size)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for cell in cells:
                seconds = await instance.seconds(cell.requests)
                live.measured.setdefault(cell, []).append(seconds)
                print(f"  {cell}: {seconds:.3f} s", file=sys.stderr)
    return live


async def calibrate(builder: Builder, system: System, file: Path) -> None:
    """As a user does it. Raises ClusterError if that fails."""
    engine = builder.engine
    command = [sys.executable, "-P", "-m", "sglang_memserve.cli.main", "calibrate", "--out", str(file)]
    command += ["--model", engine.model, "--attention-backend", engine.attention_backend]
    command += ["--threads", str(engine.threads), "--page-size", str(engine.page_size), "--url", system.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=sys.stderr)
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        raise ClusterError(f"memserve calibrate ended with {code}")


def predictions(profile: Profile, shape: ModelShape, cells: list[Cell]) -> dict[str, dict[Cell, float]]:
    """By operator and by architecture, from one calibration. The polynomial is fitted on its prefills."""
    model = CostModel(profile, shape)
    polynomial = ArchitectureFit.fit(
        [prefill.batch for prefill in profile.prefills], [prefill.seconds for prefill in profile.prefills]
    )
    return {
        OPERATORS: {cell: model.prefill_seconds(cell.requests) for cell in cells},
        ARCHITECTURE: {cell: polynomial.prefill_seconds(cell.requests) for cell in cells},
    }
