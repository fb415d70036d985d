"""Answers that decode has yet to send back to this instance."""

from collections import OrderedDict
from collections.abc import Iterable

from sglang_memserve.caching.prefix_keys import TokenIds, prefix_keys
from sglang_memserve.request_state import PromptKey

# The oldest are forgotten first: they were aborted, their answer was too short, or decode is gone.
_MAX_PROMPTS = 4096
# Prompts with the same whole pages.
_MAX_ALIKE = 64


class PendingWriteBacks:
    """The prompts that were prefilled here and whose answers have not come back. For one thread.

    A new prompt may go on from such an answer. The client has that answer then, so its KV is on the way, and
    arrives sooner than it could be computed.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._rests: OrderedDict[bytes, OrderedDict[bytes, None]] = OrderedDict()

    def expect(self, tokens: TokenIds, namespace: str) -> PromptKey | None:
        """This prompt will be prefilled here.

        Returns the longest earlier prompt that it goes on from and whose answer has not come back.
        """
        prefixes = list(prefix_keys(tokens, namespace, self._page_size))
        stop, key = prefixes[-1]
        whole = PromptKey(key, tokens[stop:].tobytes())
        previous = [prompt for prompt in self._pending_prefixes(tokens, prefixes) if prompt != whole]
        self._remember(whole)
        return previous[-1] if previous else None

    def receive(self, tokens: TokenIds, namespace: str) -> None:
        """A prompt has come back with its answer, whether or not the tree had room for it."""
        for prompt in self._pending_prefixes(tokens, prefix_keys(tokens, namespace, self._page_size)):
            rests = self._rests[prompt.pages]
            del rests[prompt.rest]
            if not rests:
                del self._rests[prompt.pages]

    def is_pending(self, prompt: PromptKey) -> bool:
        """Whether the prompt's answer has not come back."""
        return prompt.rest in self._rests.get(prompt.pages, ())

    def _pending_prefixes(self, tokens: TokenIds, prefixes: Iterable[tuple[int, bytes]]) -> list[PromptKey]:
        """The pending prompts with which the tokens begin, the shortest first. `prefixes`: of the tokens."""
        return [
            PromptKey(key, rest)
            for stop, key in prefixes
            if key in self._rests
            for rest in sorted(self._rests[key], key=len)
            if tokens[stop : stop + self._page_size].tobytes().startswith(rest)
        ]

    def _remember(self, prompt: PromptKey) -> None:
        rests = self._rests.setdefault(prompt.pages, OrderedDict())
        self._rests.move_to_end(prompt.pages)
        rests[prompt.rest] = None
        rests.move_to_end(prompt.rest)
        if len(rests) > _MAX_ALIKE:
            rests.popitem(last=False)
        if len(self._rests) > _MAX_PROMPTS:
            self._rests.popitem(last=False)
