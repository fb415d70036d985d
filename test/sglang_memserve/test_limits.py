import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_memserve.limits import (
    ARGUMENT_LIMITS,
    Unsupported,
    refuse_unknown_layout,
    refuse_unsupported_args,
    refuse_unsupported_pool,
    serves_with_memserve,
)

SERVED = {
    "disaggregation_mode": "prefill",
    "disaggregation_transfer_backend": "memserve",
    "pp_size": 1,
    "dp_size": 1,
    "enable_dp_attention": False,
    "speculative_algorithm": None,
    "enable_hierarchical_cache": False,
    "enable_lmcache": False,
    "tokenizer_worker_num": 1,
    "disaggregation_decode_enable_offload_kvcache": False,
    "enable_memory_saver": False,
    "enable_two_batch_overlap": False,
}


def args(**changes):
    return SimpleNamespace(**(SERVED | changes))


def test_a_plain_configuration_is_served():
    refuse_unsupported_args(args())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"pp_size": 2}, "--pp-size"),
        ({"dp_size": 2}, "--dp-size"),
        ({"enable_dp_attention": True}, "--enable-dp-attention"),
        ({"speculative_algorithm": "EAGLE"}, "--speculative-algorithm"),
        ({"enable_hierarchical_cache": True}, "--enable-hierarchical-cache"),
        ({"enable_lmcache": True}, "--enable-lmcache"),
        ({"tokenizer_worker_num": 2}, "--tokenizer-worker-num"),
        ({"disaggregation_decode_enable_offload_kvcache": True}, "--disaggregation-decode-enable-offload"),
        ({"enable_memory_saver": True}, "--enable-memory-saver"),
    ],
)
def test_an_argument_that_is_not_served_is_refused_by_name(changes, name):
    with pytest.raises(Unsupported, match=name):
        refuse_unsupported_args(args(**changes))


def test_a_memory_pool_of_mooncakes_is_refused(monkeypatch):
    monkeypatch.setenv("SGLANG_MOONCAKE_CUSTOM_MEM_POOL", "INTRA_NODE_NVLINK")
    with pytest.raises(Unsupported, match="SGLANG_MOONCAKE_CUSTOM_MEM_POOL=INTRA_NODE_NVLINK"):
        refuse_unsupported_args(args())


def test_half_a_batch_is_not_sent_as_a_layer(monkeypatch):
    refuse_unsupported_args(args(enable_two_batch_overlap=True))
    monkeypatch.setenv("MEMSERVE_TRANSFER", "by-layer")
    with pytest.raises(Unsupported, match="--enable-two-batch-overlap"):
        refuse_unsupported_args(args(enable_two_batch_overlap=True))


def test_every_argument_that_is_not_served_is_named_at_once():
    with pytest.raises(Unsupported, match=r"--pp-size.*--tokenizer-worker-num"):
        refuse_unsupported_args(args(pp_size=2, tokenizer_worker_num=4))


def test_a_refusal_says_what_was_given_why_not_and_what_to_do():
    with pytest.raises(Unsupported) as refused:
        refuse_unsupported_args(args(pp_size=2, enable_dp_attention=True, dp_size=4))
    assert str(refused.value) == (
        "MemServe does not serve --pp-size 2 (each stage has the KV of some layers only): use --tp-size; "
        "--enable-dp-attention --dp-size 4 (each rank has a KV pool and a cache of its own): "
        "start more instances behind the router"
    )


def test_the_arguments_are_sglangs():
    """A field that SGLang renames must not turn a limit into an AttributeError at a user's start."""
    from sglang.srt.server_args import ServerArgs

    known = set(ServerArgs.__struct_fields__)
    assert set(SERVED) <= known


@pytest.mark.parametrize(
    "changes", [{"disaggregation_mode": "null"}, {"disaggregation_transfer_backend": "mooncake"}]
)
def test_servers_that_do_not_use_memserve_are_left_alone(changes):
    assert serves_with_memserve(args())
    assert not serves_with_memserve(args(**changes))


def pool(kind, scales=None):
    buffers = SimpleNamespace(scales=scales, dtype="float4_e2m1fn_x2", buffers=())
    info = SimpleNamespace(buffer_info=buffers)
    return type(kind, (), {"get_device_pool_infos": lambda self: (info,)})()


@pytest.mark.parametrize("kind", ["MHATokenToKVPool", "MLATokenToKVPool"])
def test_plain_pools_are_served(kind):
    refuse_unsupported_pool(pool(kind), [])


@pytest.mark.parametrize(
    "kind",
    ["SWAKVPool", "HybridLinearKVPool", "DSATokenToKVPool", "MHATokenToKVPoolFP4", "MHATokenToKVPoolMXFP8"],
)
def test_other_pools_are_refused_by_name(kind):
    import sglang.srt.mem_cache.memory_pool as memory_pool
    import sglang.srt.mem_cache.swa_memory_pool as swa_memory_pool

    assert hasattr(memory_pool, kind) or hasattr(swa_memory_pool, kind)
    with pytest.raises(Unsupported, match=kind):
        refuse_unsupported_pool(pool(kind), [])


@pytest.mark.parametrize("state", ["mamba", "swa", "dsa"])
def test_state_outside_the_blocks_is_refused_by_name(state):
    from sglang.srt.disaggregation.base.conn import StateType

    with pytest.raises(Unsupported, match=state):
        refuse_unsupported_pool(pool("MHATokenToKVPool"), [StateType(state)])


def test_a_kv_dtype_with_scales_is_refused_by_name():
    with pytest.raises(Unsupported, match="float4_e2m1fn_x2"):
        refuse_unsupported_pool(pool("MHATokenToKVPool", scales=object()), [])


def real_pool(kind, **shape):
    import torch
    from sglang.srt.mem_cache import memory_pool

    common = {"size": 240, "page_size": 16, "dtype": torch.bfloat16, "layer_num": 2, "device": "cpu"}
    return getattr(memory_pool, kind)(**common | shape, enable_memory_saver=False)


@pytest.mark.parametrize(
    ("kind", "shape", "page_bytes"),
    [
        ("MHATokenToKVPool", {"head_num": 3, "head_dim": 64}, 16 * 3 * 64 * 2),
        ("MLATokenToKVPool", {"kv_lora_rank": 64, "qk_rope_head_dim": 16}, 16 * 80 * 2),
    ],
)
def test_sglangs_own_pools_are_read_as_sglang_lays_them_out(kind, shape, page_bytes):
    from sglang_memserve.kv_pool import paged_buffers

    pool = real_pool(kind, **shape)
    refuse_unsupported_pool(pool, [])
    buffers = paged_buffers(pool)
    assert set(buffers.layout.plane_bytes) == {page_bytes}
    assert buffers.num_blocks == 16
    item_lens = pool.get_contiguous_buf_infos()[2]
    refuse_unknown_layout(buffers.layout, item_lens)
    with pytest.raises(Unsupported, match="does not know this KV layout"):
        refuse_unknown_layout(buffers.layout, [2 * size for size in item_lens])


def test_eight_bit_floats_of_two_kinds_are_two_layouts():
    """SGLang stores both as uint8."""
    import torch

    from sglang_memserve.kv_pool import paged_buffers

    kinds = torch.float8_e4m3fn, torch.float8_e5m2
    pools = [real_pool("MHATokenToKVPool", head_num=3, head_dim=64, dtype=kind) for kind in kinds]
    assert [paged_buffers(each).layout.dtype for each in pools] == ["float8_e4m3fn", "float8_e5m2"]


def test_a_kv_layout_by_heads_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("SGLANG_USE_HND_KVCACHE", "1")
    with pytest.raises(Unsupported, match="SGLANG_USE_HND_KVCACHE"):
        refuse_unsupported_pool(real_pool("MHATokenToKVPool", head_num=3, head_dim=64), [])


def test_the_documented_table_names_every_limit():
    text = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    for limit in ARGUMENT_LIMITS:
        for flag in re.findall(r"--[a-z-]+", limit.name):
            assert flag in text
