"""The model's shape as this host computes it. Loads no torch: benchmarks import it to say their `--help`."""

import json
from pathlib import Path

from router.cost import ModelShape
from sglang_memserve import cpu_host


class CalibrationError(RuntimeError):
    """The options name something that cannot be measured. The message says what and why."""


def model_shape(folder: str) -> ModelShape:
    """The model of `folder`, in the dtype that this host computes in. Raises CalibrationError."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
        return ModelShape.from_config(config, "float32" if cpu_host.prefers_float32() else None)
    except (OSError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{folder}: {error}") from error
