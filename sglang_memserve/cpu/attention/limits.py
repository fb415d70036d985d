"""What the CPU attention does not serve. It is refused at start by name; docs/limits.md has the same list."""

from collections.abc import Iterator
from typing import Any

import torch

from sglang_memserve.cpu.attention import NAME
from sglang_memserve.limits import Unsupported

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuse_unsupported(model_runner: Any) -> None:
    """Raises Unsupported with all that the model, its pool and the arguments need and that is not served."""
    needed = [*_of_arguments(model_runner), *_of_pool(model_runner.token_to_kv_pool)]
    for layer in attention_layers(model_runner.model):
        needed += _of_layer(layer)
    if needed:
        reasons = "; ".join(dict.fromkeys(needed))
        raise Unsupported(
            f"--attention-backend {NAME} does not serve {reasons}: choose another --attention-backend"
        )


def attention_layers(model: Any) -> list[Any]:
    from sglang.srt.layers.radix_attention import RadixAttention

    return [module for module in model.modules() if isinstance(module, RadixAttention)]


def _of_arguments(model_runner: Any) -> Iterator[str]:
    if model_runner.device != "cpu":
        yield f"the device {model_runner.device}"
    if model_runner.server_args.speculative_algorithm is not None:
        yield "speculative decoding (--speculative-algorithm)"
    if model_runner.server_args.dllm_algorithm is not None:
        yield "diffusion language models (--dllm-algorithm)"
    if model_runner.model_config.is_encoder_decoder:
        yield "cross attention (encoder-decoder models)"
    if model_runner.model_config.has_attention_sinks:
        yield "attention sinks"


def _of_pool(pool: Any) -> Iterator[str]:
    name = type(pool).__name__
    if name != "MHATokenToKVPool":
        yield f"a KV pool of the kind {name} (MLA, sliding window, Mamba, scaled fp4 and fp8)"
        return
    if pool.dtype not in DTYPES:
        yield f"a KV cache of {pool.dtype} (--kv-cache-dtype)"
    if pool.kv_cache_layout != "nhd":
        yield f"the KV layout {pool.kv_cache_layout} (SGLANG_USE_HND_KVCACHE)"


def _of_layer(layer: Any) -> Iterator[str]:
    if layer.sliding_window_size > -1:
        yield "a sliding window"
    if layer.is_cross_attention:
        yield "cross attention"
    if layer.attn_type.value != "decoder":
        yield f"{layer.attn_type.value} attention"
    if layer.logit_cap:
        yield "a logit cap"
    if layer.xai_temperature_len > 0:
        yield "a temperature by length (xai_temperature_len)"
    if layer.pos_encoding_mode != "NONE":
        yield f"positions inside of the attention ({layer.pos_encoding_mode})"
