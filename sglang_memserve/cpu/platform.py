"""SGLang on a host without a GPU, and without the CPU kernels that PyPI's sgl_kernel does not ship."""

from typing import Any

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

from sglang_memserve import cpu_host
from sglang_memserve.cpu.attention import registration
from sglang_memserve.cpu_host import CpuPlatformMark


def activate() -> str | None:
    """Entry point of `sglang.srt.platforms`: this platform, unless there is a GPU to serve on."""
    return None if torch.cuda.is_available() else f"{__name__}.MemServeCpuPlatform"


class MemServeCpuPlatform(CpuDeviceMixin, SRTPlatform, CpuPlatformMark):
    # PlatformEnum.CPU would send SGLang down the paths that import sgl_kernel.
    _enum = PlatformEnum.OOT

    def apply_server_args_defaults(self, server_args: Any) -> None:
        if server_args.dtype == "auto" and cpu_host.prefers_float32():
            server_args.dtype = "float32"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def init_backend(self) -> None:
        registration.register()

    def is_pin_memory_available(self, device: object = None) -> bool:
        return False
