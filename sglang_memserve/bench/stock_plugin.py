"""What stock SGLang needs to split over Mooncake on a host without a GPU: one class attribute.

scripts/setup_peers.sh installs the entry point, `memserve_stock`, where only a peer's servers see it.
"""

import sys

import torch


def register() -> None:
    """Keeps Mooncake's sender from copying page numbers over a CUDA stream where there is no CUDA."""
    if "mooncake" not in sys.argv or torch.cuda.is_available():
        return
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    MooncakeKVSender.supports_host_tensor_indices = False
