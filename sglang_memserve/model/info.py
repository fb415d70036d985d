"""What has to be known of a model before it is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_memserve import cpu_host
from sglang_memserve.model.embedded import ModelError


@dataclass(frozen=True)
class ModelInfo:
    """`path` as given to SGLang; context length in tokens; bytes of K and V of one token over all layers.

    `weight_bytes` are those of a local folder's weights, 0 for a hub name. All as on this host, which may
    compute in float32.
    """

    path: str
    context_length: int
    kv_bytes_per_token: int
    weight_bytes: int = 0


def describe_model(path: str) -> ModelInfo:
    """Reads a local folder's config.json, or asks the hub for that of a hub name (imports transformers).

    Raises ModelError if there is no configuration, or it lacks what the size of the KV follows from.
    """
    config = _local_config(Path(path)) if Path(path).is_dir() else _hub_config(path)
    config = config.get("text_config") or config
    try:
        context = int(config["max_position_embeddings"])
        return ModelInfo(path, context, _kv_bytes(config), _weight_bytes(Path(path), config))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the model's configuration has no usable {error}") from error


def _kv_bytes(config: dict[str, Any]) -> int:
    element = 4 if "float32" in _dtype(config) or cpu_host.prefers_float32() else 2
    layers = int(config["num_hidden_layers"])
    if config.get("kv_lora_rank"):
        return layers * (int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])) * element
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    return 2 * layers * kv_heads * head_dim * element


def _weight_bytes(folder: Path, config: dict[str, Any]) -> int:
    # Only one of the two forms is loaded, and the first is preferred.
    forms = (folder.glob(pattern) for pattern in ("model*.safetensors", "pytorch_model*.bin"))
    stored = next(filter(None, (sum(file.stat().st_size for file in files) for files in forms)), 0)
    widened = "float32" not in _dtype(config) and cpu_host.prefers_float32()
    return 2 * stored if widened else stored


def _dtype(config: dict[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype"))


def _local_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is not a model folder: config.json cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder} is not a model folder: config.json is not a JSON object")
    return config


def _hub_config(name: str) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        return dict(AutoConfig.from_pretrained(name).to_dict())
    except Exception as error:  # transformers raises OSError, ValueError and the hub's own kinds
        reason = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"the hub's model {name!r} cannot be read: {reason}") from error
