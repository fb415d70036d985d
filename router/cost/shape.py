"""The sizes of a model that its times follow from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from router.cost.attention import Heads

_ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Models with these have layers of other operators than those that are estimated here.
_UNPRICED = ("kv_lora_rank", "num_experts", "num_local_experts", "n_routed_experts", "sliding_window_pattern")


class ShapeError(ValueError):
    """A model without a cost model; the text names the field of its configuration that is why."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A dense transformer with a gated MLP, such as Llama: sizes of the whole model, in elements."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    dtype: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: str | None = None) -> ModelShape:
        """From Hugging Face's config.json. `dtype`: what the engine computes in, if not the model's own.

        Raises ShapeError for a configuration that lacks a field, or of a kind without a cost model.
        """
        config = config.get("text_config") or config
        for field in _UNPRICED:
            if config.get(field):
                raise ShapeError(f"{field} = {config[field]!r}: only dense MHA and GQA models are priced")
        heads = _count(config, "num_attention_heads")
        hidden = _count(config, "hidden_size")
        return cls(
            layers=_count(config, "num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=_count(config, "num_key_value_heads", heads),
            head_dim=_count(config, "head_dim", hidden // heads),
            intermediate=_count(config, "intermediate_size"),
            vocab=_count(config, "vocab_size"),
            dtype=dtype or str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
        )

    def __post_init__(self) -> None:
        if self.dtype not in _ELEMENT_BYTES:
            raise ShapeError(f"dtype {self.dtype!r} is not priced: one of {', '.join(_ELEMENT_BYTES)} is")

    @property
    def element_bytes(self) -> int:
        return _ELEMENT_BYTES[self.dtype]

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of K and V of one token in all layers, over all ranks."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.element_bytes

    def heads_of(self, tp: int) -> Heads:
        """Those of one rank. Fewer KV heads than ranks are copied to several. Raises ShapeError."""
        if tp < 1 or self.heads % tp or self.intermediate % tp:
            sizes = f"{self.heads} heads and an MLP of {self.intermediate}"
            raise ShapeError(f"tp = {tp} does not divide {sizes}: choose another")
        return Heads(self.heads // tp, max(1, self.kv_heads // tp), self.head_dim)

    def projections(self, tp: int) -> dict[str, tuple[int, int]]:
        """By name, (n, k) of one rank's share of the matrices of a layer."""
        heads = self.heads_of(tp)
        mlp = self.intermediate // tp
        return {
            "qkv": ((heads.query + 2 * heads.kv) * heads.dim, self.hidden),
            "o": (self.hidden, heads.query * heads.dim),
            "gate_up": (2 * mlp, self.hidden),
            "down": (self.hidden, mlp),
        }

    def streams(self, tp: int) -> dict[str, tuple[int, int]]:
        """By name: how often in a layer, and bytes read and written for each token on one rank."""
        heads, element = self.heads_of(tp), self.element_bytes
        kv = heads.kv * heads.dim
        return {
            "norm": (2, 2 * self.hidden * element),
            "add": (2, 3 * self.hidden * element),
            "rope": (1, 2 * (heads.query * heads.dim + kv) * element),
            "activation": (1, 3 * self.intermediate // tp * element),
            "kv_store": (1, 4 * kv * element),
        }


def _count(config: Mapping[str, Any], field: str, otherwise: int | None = None) -> int:
    value = config.get(field)
    value = otherwise if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ShapeError(
            f"the model's configuration has {field} = {value!r}: a whole number above 0 is needed"
        )
    return value
