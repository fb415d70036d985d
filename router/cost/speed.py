"""How fast one kind of instance is, in tokens: the router asks for it many times a second."""

from __future__ import annotations

from functools import lru_cache

from router.cost.model import CostModel
from router.cost.profile import Profile
from router.cost.shape import ModelShape
from router.cost.streams import MemoryBound

_REMEMBERED = 4096
# A guessed length may be of any size, and each 8,192 tokens take microseconds to estimate.
_MAX_TOKENS = 1 << 20
# Larger decode batches count as this one.
_MAX_REQUESTS = 512
# Where the profile has none: 10 Gbit/s between instances, and PCIe into HBM.
_TRANSFER = MemoryBound(byte_s=1 / 1.25e9)
_SWAP_IN = MemoryBound(byte_s=1 / 25e9)
# What a fetch takes beside the bytes: to ask, and to be scheduled again.
_FETCH_CALL_S = 2e-3


class Speed:
    """A model on a device at its TP. Times are in seconds, not corrected; those of prefills are cached.

    `min_forward_s` and `max_forward_s`: the shortest and the longest prefill forward. `fetched_page`: tokens
    of a block in the MemPool that instances of this speed fetch from; 0: they do not. Raises ShapeError or
    ProfileError as CostModel does.
    """

    def __init__(
        self,
        profile: Profile,
        shape: ModelShape,
        tp: int = 1,
        forward_tokens: int = 8192,
        fetched_page: int = 0,
    ) -> None:
        self.fetched_page = fetched_page
        self._model = CostModel(profile, shape, tp, forward_tokens)
        self._send = _by_token(profile.transfer or _TRANSFER, shape, tp)
        self._swap_in = _by_token(profile.swap_in or _SWAP_IN, shape, tp)
        self.prefill = lru_cache(_REMEMBERED)(self._prefill)
        max_requests = min(forward_tokens, _MAX_REQUESTS)
        self._steps = [self._model.step_seconds(requests, 0) for requests in range(max_requests + 1)]
        self._step_token_s = (self._model.step_seconds(1, _MAX_TOKENS) - self._steps[1]) / _MAX_TOKENS
        self.min_forward_s = self.prefill(0, 1)
        self.max_forward_s = self.prefill(0, forward_tokens)

    def send(self, tokens: int) -> float:
        """Seconds to send the KV of so many tokens to another instance."""
        call, token = self._send
        return call + tokens * token if tokens > 0 else 0.0

    def fetch(self, tokens: int) -> float:
        """The same, asked for by the receiver."""
        return _FETCH_CALL_S + self.send(tokens)

    def swap_in(self, tokens: int) -> float:
        """Seconds to copy the KV of so many tokens from DRAM to HBM."""
        call, token = self._swap_in
        return call + tokens * token if tokens > 0 else 0.0

    def step(self, requests: int, tokens: int) -> float:
        """Seconds of a decode step of so many requests, with `tokens` tokens together."""
        steps = self._steps
        return steps[requests if requests < len(steps) else -1] + tokens * self._step_token_s

    def _prefill(self, cached: int, new: int) -> float:
        return self._model.prefill_seconds([(cached, min(new, _MAX_TOKENS))])


def _by_token(moving: MemoryBound, shape: ModelShape, tp: int) -> tuple[float, float]:
    """Seconds for each call and for each token. Each rank moves the KV of its own heads."""
    return moving.call_s, moving.byte_s * shape.kv_token_bytes / tp
