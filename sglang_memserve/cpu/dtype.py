"""The dtype in which a CPU computes a model."""


def prefers_float32() -> bool:
    """Whether this host has no GPU, and a CPU without instructions for bfloat16.

    PyTorch then multiplies bfloat16 matrices in a plain loop, 15 times slower than float32 ones or worse.
    """
    import torch

    native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return native is not None and not torch.cuda.is_available() and not native()
