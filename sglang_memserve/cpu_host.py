"""Hosts without a GPU: whether MemServe's CPU platform is in use, and the dtype that such a host computes in.

A leaf: the platform itself, the hooks and the model's loader all ask here.
"""


class CpuPlatformMark:
    """A base of MemServe's CPU platform, by which it is known."""


def on_cpu() -> bool:
    """Whether MemServe's CPU platform is the one that SGLang runs on."""
    from sglang.srt.platforms import current_platform

    return isinstance(current_platform, CpuPlatformMark)


def prefers_float32() -> bool:
    """Whether this host has no GPU, and a CPU without instructions for bfloat16.

    PyTorch then multiplies bfloat16 matrices in a plain loop, 15 times slower than float32 ones or worse.
    """
    import torch

    native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return native is not None and not torch.cuda.is_available() and not native()
