"""Times of a model's forwards, composed from the operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from router.cost.attention import Request
from router.cost.fitting import Array
from router.cost.profile import Profile, ProfileError
from router.cost.shape import ModelShape, ShapeError


class CostModel:
    """exec(x, y) of arXiv 2406.17565, section 6, for one model at one TP, in seconds.

    A forward has at most `forward_tokens` new tokens (SGLang's --chunked-prefill-size); a longer prefill
    takes several forwards. What depends on the number of new tokens alone is computed once, here: an estimate
    is then an addition and an attention. Raises ShapeError or ProfileError if profile, model and `tp` do not
    fit.
    """

    def __init__(self, profile: Profile, shape: ModelShape, tp: int = 1, forward_tokens: int = 8192) -> None:
        if shape.dtype != profile.dtype:
            raise ShapeError(
                f"the model computes in {shape.dtype}, the profile was measured in {profile.dtype}"
            )
        if tp > 1 and profile.all_reduce is None:
            raise ProfileError(f"tp = {tp}: the profile of {profile.device} has no all-reduce")
        self._profile = profile
        self._shape = shape
        self._tp = tp
        self._heads = shape.heads_of(tp)
        self._forward_tokens = forward_tokens
        tokens = np.arange(forward_tokens + 1, dtype=np.float64)
        self._by_tokens: Array = sum(self._token_parts(tokens).values(), start=np.zeros(len(tokens)))

    def prefill_seconds(self, batch: Sequence[Request]) -> float:
        """`batch`: (cached, new) tokens of each request. Requests without new tokens cost nothing."""
        return sum(self._forward_seconds(part) for part in self._forwards(batch))

    def step_seconds(self, requests: int, tokens: int) -> float:
        """One decode step of so many requests, with `tokens` tokens together; it is linear in the tokens."""
        if not requests:
            return 0.0
        heads, layers = self._heads, self._shape.layers
        moved = 2 * heads.kv * heads.dim * self._shape.element_bytes * tokens
        attention = layers * self._profile.decode_attention.seconds(moved, requests)
        return self._whole(requests, requests, float(attention))

    def operator_seconds(self, batch: Sequence[Request]) -> dict[str, float]:
        """The operators of one prefill forward by name, in all layers, without the engine's overhead."""
        tokens = sum(new for _, new in batch)
        parts = {
            name: float(value[0]) for name, value in self._token_parts(np.array([float(tokens)])).items()
        }
        attention = self._shape.layers * self._profile.prefill_attention.seconds(batch, self._heads)
        return {**parts, "attention": attention, "lm_head": self._lm_head(len(batch))}

    def _forward_seconds(self, batch: Sequence[Request]) -> float:
        attention = self._profile.prefill_attention.seconds(batch, self._heads)
        return self._whole(len(batch), sum(new for _, new in batch), self._shape.layers * attention)

    def _whole(self, requests: int, tokens: int, attention: float) -> float:
        """A forward of prefill or decode, with the engine's overhead."""
        operators = float(self._by_tokens[tokens]) + attention + self._lm_head(requests)
        return self._profile.overhead.seconds(requests, tokens, operators)

    def _forwards(self, batch: Iterable[Request]) -> Iterator[list[Request]]:
        """The batch as forwards with room for it, filled in order as SGLang's chunked prefill does."""
        part: list[Request] = []
        room = self._forward_tokens
        for cached, new in batch:
            while new > 0:
                taken = min(new, room)
                part.append((cached, taken))
                cached, new, room = cached + taken, new - taken, room - taken
                if not room:
                    yield part
                    part, room = [], self._forward_tokens
        if part:
            yield part

    def _lm_head(self, requests: int) -> float:
        """Only the last token of each request has logits."""
        return float(self._profile.gemm.seconds(requests, self._shape.vocab // self._tp, self._shape.hidden))

    def _token_parts(self, tokens: Array) -> dict[str, Array]:
        """By operator, the seconds in all layers for each number in `tokens`."""
        shape, profile, tp = self._shape, self._profile, self._tp
        layer = {name: profile.gemm.seconds(tokens, n, k) for name, (n, k) in shape.projections(tp).items()}
        for name, (times, token_bytes) in shape.streams(tp).items():
            if stream := profile.streams.get(name):
                layer[name] = times * stream.seconds(tokens * token_bytes)
        row = shape.hidden * shape.element_bytes
        if profile.all_reduce:
            layer["all_reduce"] = 2 * profile.all_reduce.seconds(tokens * row, tp)
        parts = {name: shape.layers * np.asarray(value, float) for name, value in layer.items()}
        if embedding := profile.streams.get("embedding"):
            parts["embedding"] = np.asarray(embedding.seconds(tokens * 2 * row), float)
        return parts
