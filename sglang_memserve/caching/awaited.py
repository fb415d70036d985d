"""Answers that decode has yet to send back, and whose next turns have come already."""

from collections import OrderedDict
from typing import NamedTuple

from sglang_memserve.caching.prefix_keys import Ids, prefix_keys

# The first to come are forgotten first: they were aborted, their answer was too short, or decode is gone.
_MAX_PROMPTS = 4096
# Of prompts with the same whole pages.
_MAX_ALIKE = 64


class _Prompt(NamedTuple):
    """The key of its whole pages, and the tokens after them."""

    pages: bytes
    rest: bytes


class Awaited:
    """A prompt that goes on from one that was prefilled here, whose answer is not here yet: the client has
    that answer, so it is on its way, and will be here sooner than it is computed. One thread's.

    `page`: tokens of a block.
    """

    def __init__(self, page: int) -> None:
        self._page = page
        self._rests: OrderedDict[bytes, OrderedDict[bytes, None]] = OrderedDict()
        self._of_rooms: dict[int, _Prompt] = {}

    def arrived(self, room: int, tokens: Ids, namespace: str) -> None:
        """The room's prompt, which will be prefilled here."""
        *_, (stop, key) = prefix_keys(tokens, namespace, self._page)
        whole = _Prompt(key, tokens[stop:].tobytes())
        before = [prompt for prompt in self._begun_with(tokens, namespace) if prompt != whole]
        if before:
            self._of_rooms[room] = before[-1]
        self._remember(whole)

    def came(self, tokens: Ids, namespace: str) -> None:
        """A prompt with its answer, whether or not it could be taken in."""
        for prompt in self._begun_with(tokens, namespace):
            rests = self._rests[prompt.pages]
            del rests[prompt.rest]
            if not rests:
                del self._rests[prompt.pages]

    def waits(self, room: int) -> bool:
        """Whether an answer that the room's prompt goes on from is on its way."""
        before = self._of_rooms.get(room)
        return before is not None and before.rest in self._rests.get(before.pages, ())

    def forget(self, room: int) -> None:
        self._of_rooms.pop(room, None)

    def _begun_with(self, tokens: Ids, namespace: str) -> list[_Prompt]:
        """The prompts without answers that the tokens begin with, the shortest first."""
        return [
            _Prompt(key, rest)
            for stop, key in prefix_keys(tokens, namespace, self._page)
            if key in self._rests
            for rest in sorted(self._rests[key], key=len)
            if tokens[stop : stop + self._page].tobytes().startswith(rest)
        ]

    def _remember(self, prompt: _Prompt) -> None:
        rests = self._rests.setdefault(prompt.pages, OrderedDict())
        self._rests.move_to_end(prompt.pages)
        rests[prompt.rest] = None
        rests.move_to_end(prompt.rest)
        if len(rests) > _MAX_ALIKE:
            rests.popitem(last=False)
        if len(self._rests) > _MAX_PROMPTS:
            self._rests.popitem(last=False)
