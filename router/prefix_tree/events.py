"""What instances tell of themselves, as it happens; and where they do not, or not yet, what they answered."""

from __future__ import annotations

import time
from collections.abc import Callable

from router.instances.instance import Instance
from router.prefix_tree.base import NOTHING, Cached
from router.prefix_tree.mirrors import Mirrors
from router.prefix_tree.response import ResponseTree
from router.prompt.request import TokenArray, told_namespace


class EventTree:
    """`mirrors` is what feeds told, over `max_tokens` tokens at most.

    An answer of an instance that is followed is a prediction, believed for `prediction_ttl` seconds: until
    the events of it are here. Of an instance that is not, answers are all there is, and are believed for
    `ttl` seconds. An instance names what it has of a LoRA adapter in a way of its own: of prompts with an
    adapter predictions alone are known.
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
        told = told_namespace(namespace)
        cached: dict[Instance, Cached] = {}
        if told is not None:
            cached = self.mirrors.match(told, tokens.tobytes(), len(tokens) - 1)
        for one, guess in self._predicted.match(tokens, namespace).items():
            cached[one] = _better(cached.get(one, NOTHING), guess)
        for one, guess in self._inferred.match(tokens, namespace).items():
            if not self.mirrors.follows(one):
                cached[one] = _better(cached.get(one, NOTHING), guess)
        return cached

    def stored(self, instance: Instance, tokens: TokenArray, namespace: str) -> None:
        followed = self.mirrors.follows(instance)
        (self._predicted if followed else self._inferred).stored(instance, tokens, namespace)
        (self._inferred if followed else self._predicted).age()

    def sizes(self) -> dict[str, int]:
        predicted, inferred = self._predicted.sizes(), self._inferred.sizes()
        return {
            **self.mirrors.sizes(),
            "predicted_tokens": predicted["tokens"],
            "inferred_tokens": inferred["tokens"],
        }


def _better(told: Cached, guess: Cached) -> Cached:
    return Cached(max(told.tokens, guess.tokens), max(told.hbm, guess.hbm))
