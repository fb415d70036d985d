import pytest

from router.cost import ModelShape, Profile
from router.cost.attention import Kernel, PrefillAttention
from router.cost.gemm import Gemm
from router.cost.streams import MemoryBound, Overhead

CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def shape():
    return ModelShape.from_config(CONFIG)


@pytest.fixture
def profile():
    """Round figures: attention of a pair costs as much as in any place, a forward has 1 ms of its own."""
    gemm = Gemm(
        tile_m=64,
        tile_n=64,
        units=4,
        element_bytes=2,
        call_s=1e-6,
        wave_s=1e-6,
        wave_k_s=1e-8,
        byte_s=1e-12,
    )
    return Profile(
        device="a test",
        dtype="bfloat16",
        gemm=gemm,
        prefill_attention=PrefillAttention(kernels=(Kernel(tile=16, units=4, wave_key_s=1e-9),)),
        decode_attention=MemoryBound(item_s=1e-6, byte_s=1e-10),
        streams={"norm": MemoryBound(byte_s=1e-11), "embedding": MemoryBound(call_s=1e-6)},
        overhead=Overhead(forward_s=1e-3, request_s=1e-4),
        swap_in=MemoryBound(call_s=1e-5, byte_s=1e-10),
    )
