"""A Llama GGUF with a byte-level BPE tokenizer, written as a Hugging Face folder in bf16.

Not done with transformers' own GGUF loader: it may keep weights packed, depending on what else is installed,
and splits digits otherwise than this tokenizer was trained to.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # GGUF's token type for special tokens

Meta = Callable[[str], Any]


def convert_gguf(source: Path, target: Path) -> None:
    """Writes configuration, tokenizer, chat template and weights into the existing folder `target`.

    Raises ValueError for an architecture or tokenizer other than llama with smollm's byte-level BPE.
    """
    from gguf import GGUFReader

    reader = GGUFReader(source)

    def meta(key: str) -> Any:
        if key not in reader.fields:
            raise ValueError(f"{source.name} has no {key}")
        return reader.fields[key].contents()

    kind = (meta("general.architecture"), meta("tokenizer.ggml.model"), meta("tokenizer.ggml.pre"))
    if kind != ("llama", "gpt2", "smollm"):
        raise ValueError(
            f"{source.name} is {'/'.join(map(str, kind))}: only llama/gpt2/smollm can be converted"
        )
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    _write_json(target / "config.json", _config(meta, tied))
    _write_json(target / "generation_config.json", _special_ids(meta))
    _write_tokenizer(meta, target)
    _write_weights(reader.tensors, meta, target / "model.safetensors")


def _config(meta: Meta, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": meta("llama.embedding_length"),
        "intermediate_size": meta("llama.feed_forward_length"),
        "num_hidden_layers": meta("llama.block_count"),
        "num_attention_heads": meta("llama.attention.head_count"),
        "num_key_value_heads": meta("llama.attention.head_count_kv"),
        "head_dim": meta("llama.rope.dimension_count"),
        "max_position_embeddings": meta("llama.context_length"),
        # GGUF keeps it in 32 bits: 1e-5 comes back with noise behind the sixth digit.
        "rms_norm_eps": float(f"{meta('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": meta("llama.rope.freq_base"),
        "rope_parameters": {"rope_type": "default", "rope_theta": meta("llama.rope.freq_base")},
        "vocab_size": meta("llama.vocab_size"),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        **_special_ids(meta),
    }


def _special_ids(meta: Meta) -> dict[str, int]:
    return {
        "bos_token_id": meta("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta("tokenizer.ggml.padding_token_id"),
    }


def _write_tokenizer(meta: Meta, target: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = meta("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in meta("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    # "smollm" in GGUF's words: each digit stands alone, everything else as in GPT-2.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [tokens[i] for i, kind in enumerate(meta("tokenizer.ggml.token_type")) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(target / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": meta("llama.context_length"),
        "bos_token": tokens[meta("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[meta("tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[meta("tokenizer.ggml.padding_token_id")],
        "unk_token": tokens[meta("tokenizer.ggml.unknown_token_id")],
        "chat_template": meta("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    _write_json(target / "tokenizer_config.json", config)


def _write_weights(tensors: list[Any], meta: Meta, path: Path) -> None:
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    heads = {"attn_q": meta("llama.attention.head_count"), "attn_k": meta("llama.attention.head_count_kv")}
    weights = {}
    for tensor in tensors:
        name, part = _rename(tensor.name)
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if part in heads:
            # GGUF interleaves the two halves that rotary embedding turns together.
            weight = weight.view(heads[part], -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)
        weights[name] = weight.to(torch.bfloat16).contiguous()
    save_file(weights, path, metadata={"format": "pt"})


def _rename(name: str) -> tuple[str, str]:
    match name.split("."):
        case [part, "weight"] if part in _OUTER:
            return f"{_OUTER[part]}.weight", part
        case ["blk", layer, part, "weight"] if part in _INNER:
            return f"model.layers.{layer}.{_INNER[part]}.weight", part
    raise ValueError(f"no place for the tensor {name} in a Llama model")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
