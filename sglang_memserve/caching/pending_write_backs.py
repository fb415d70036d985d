"""Answers that decode has yet to send back, and whose next turns have come already."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from sglang_memserve.caching.prefix_keys import Ids, prefix_keys

# The first to come are forgotten first: they were aborted, their answer was too short, or decode is gone.
_MAX_PROMPTS = 4096
# Of prompts with the same whole pages.
_MAX_ALIKE = 64


class Prompt(NamedTuple):
    """The key of its whole pages, and the tokens after them."""

    pages: bytes
    rest: bytes


class PendingWriteBacks:
    """A prompt that goes on from one that was prefilled here, whose answer is not here yet: the client has
    that answer, so it is on its way, and will be here sooner than it is computed. One thread's.

    `page`: tokens of a block.
    """

    def __init__(self, page: int) -> None:
        self._page = page
        self._rests: OrderedDict[bytes, OrderedDict[bytes, None]] = OrderedDict()

    def arrived(self, tokens: Ids, namespace: str) -> Prompt | None:
        """A prompt that will be prefilled here; returns the last one it goes on from whose answer is away."""
        prefixes = list(prefix_keys(tokens, namespace, self._page))
        stop, key = prefixes[-1]
        whole = Prompt(key, tokens[stop:].tobytes())
        before = [prompt for prompt in self._begun_with(tokens, prefixes) if prompt != whole]
        self._remember(whole)
        return before[-1] if before else None

    def came(self, tokens: Ids, namespace: str) -> None:
        """A prompt with its answer, whether or not it could be taken in."""
        for prompt in self._begun_with(tokens, prefix_keys(tokens, namespace, self._page)):
            rests = self._rests[prompt.pages]
            del rests[prompt.rest]
            if not rests:
                del self._rests[prompt.pages]

    def waits_for(self, prompt: Prompt) -> bool:
        """Whether its answer has not come."""
        return prompt.rest in self._rests.get(prompt.pages, ())

    def _begun_with(self, tokens: Ids, prefixes: Iterable[tuple[int, bytes]]) -> list[Prompt]:
        """The prompts without answers that the tokens, of these prefixes, begin with, the shortest first."""
        return [
            Prompt(key, rest)
            for stop, key in prefixes
            if key in self._rests
            for rest in sorted(self._rests[key], key=len)
            if tokens[stop : stop + self._page].tobytes().startswith(rest)
        ]

    def _remember(self, prompt: Prompt) -> None:
        rests = self._rests.setdefault(prompt.pages, OrderedDict())
        self._rests.move_to_end(prompt.pages)
        rests[prompt.rest] = None
        rests.move_to_end(prompt.rest)
        if len(rests) > _MAX_ALIKE:
            rests.popitem(last=False)
        if len(self._rests) > _MAX_PROMPTS:
            self._rests.popitem(last=False)
