"""What a calibration measures: the model, the device and how its instances run."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from router.cost import ModelShape
from sglang_memserve import cpu_host
from sglang_memserve.calibrate.attention import BACKENDS
from sglang_memserve.cpu.attention import NAME as MEMSERVE_CPU


class CalibrationError(RuntimeError):
    """The options name something that cannot be measured. The message says what and why."""


@dataclass(frozen=True)
class CalibrationOptions:
    """`model`: a folder with config.json. `threads`: OpenMP's, as the instance on a CPU has them.

    `transfer_gb_s`: the bandwidth between instances, which one machine alone cannot measure.
    """

    model: str
    device: str = "auto"
    attention_backend: str = MEMSERVE_CPU
    threads: int = 1
    page_size: int = 16
    transfer_gb_s: float | None = None

    def __post_init__(self) -> None:
        on_cpu = self.torch_device.type == "cpu"
        if on_cpu and self.attention_backend not in BACKENDS:
            raise CalibrationError(
                f"--attention-backend {self.attention_backend}: on a CPU choose from {', '.join(BACKENDS)}"
            )

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.device(self.device)
        except RuntimeError:
            raise CalibrationError(f"--device {self.device}: auto, cpu, cuda or cuda:N is needed") from None


def model_shape(folder: str) -> ModelShape:
    """The model of `folder`, in the dtype that this host computes in. Raises CalibrationError."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
        return ModelShape.from_config(config, "float32" if cpu_host.prefers_float32() else None)
    except (OSError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{folder}: {error}") from error
