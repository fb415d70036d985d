"""What a calibration measures: the model, the device and how its instances run."""

from dataclasses import dataclass

import torch

from sglang_memserve.calibrate.attention import BACKENDS
from sglang_memserve.calibrate.shape import CalibrationError
from sglang_memserve.cpu.attention import NAME as MEMSERVE_CPU


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
