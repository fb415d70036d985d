"""What instances report in their events; and what they answered, where there are no events (yet)."""

from __future__ import annotations

import time
from collections.abc import Callable

from router.instances.instance import Instance
from router.prefix_tree.base import NOTHING, Cached
from router.prefix_tree.mirrors import Mirrors
from router.prefix_tree.response import ResponseTree
from router.prompt.request import TokenArray, is_of_text, reported_namespace


class EventTree:
    """`mirrors`: what feeds reported, `max_tokens` tokens at most.

    An answer of an instance that is followed is a prediction. It counts for `prediction_ttl` seconds, until
    its events are here. Of an instance that is not followed, answers are all that is known; they count for
    `ttl` seconds. Instances name LoRA adapters by ids of their own, so prompts with an adapter are known by
    predictions alone. No instance reports texts: all that is known of them are answers. `clock`: seconds,
    monotonic.
    """

    def __init__(
        self,
        ttl: float,
        prediction_ttl: float,
        max_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mirrors = Mirrors(max_tokens)
        self._predicted = ResponseTree(prediction_ttl, max_tokens, clock)
        self._inferred = ResponseTree(ttl, max_tokens, clock)

    def match(self, tokens: TokenArray, namespace: str) -> dict[Instance, Cached]:
        if is_of_text(namespace):
            return self._inferred.match(tokens, namespace)
        reported = reported_namespace(namespace)
        cached: dict[Instance, Cached] = {}
        if reported is not None:
            cached = self.mirrors.match(reported, tokens.tobytes(), len(tokens) - 1)
        for instance, guess in self._predicted.match(tokens, namespace).items():
            cached[instance] = _longer(cached.get(instance, NOTHING), guess)
        for instance, guess in self._inferred.match(tokens, namespace).items():
            if not self.mirrors.follows(instance):
                cached[instance] = _longer(cached.get(instance, NOTHING), guess)
        return cached

    def stored(self, instance: Instance, tokens: TokenArray, namespace: str) -> None:
        state = self.mirrors.follows(instance) and not is_of_text(namespace)
        (self._predicted if state else self._inferred).stored(instance, tokens, namespace)
        (self._inferred if state else self._predicted).age()

    def sizes(self) -> dict[str, int]:
        predicted, inferred = self._predicted.sizes(), self._inferred.sizes()
        return {
            **self.mirrors.sizes(),
            "predicted_tokens": predicted["tokens"],
            "inferred_tokens": inferred["tokens"],
        }


def _longer(known: Cached, guess: Cached) -> Cached:
    return Cached(max(known.tokens, guess.tokens), max(known.hbm, guess.hbm))
