"""Answers that were written back, and whether later prompts that repeat them do so by the same token ids.

A client that sends text has it tokenized anew, and the ids may be others than those that were generated: then
the answer's KV is here, and not found.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.prefix_keys import Ids, prefix_keys

logger = logging.getLogger(__name__)

# Of one prompt: of as many each arrival may have to look at the text.
_ANSWERS_OF_PROMPT = 4
# A character that is cut off by the answer's last page.
_CUT_OFF = "\ufffd"


class _Answer:
    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.text: str | None = None


class Reencoded:
    """One thread's. It remembers `max_answers` and `max_tokens` of answers, those that were met last.

    `page`: tokens of a block. `decode`: the tokenizer's; without it only answers whose ids came are counted.
    """

    def __init__(
        self,
        page: int,
        counts: Counters,
        decode: Callable[[list[int]], str] | None = None,
        *,
        max_answers: int = 4096,
        max_tokens: int = 1 << 20,
    ) -> None:
        self._page = page
        self._counts = counts
        self._decode = decode
        self._max_answers = max_answers
        self._max_tokens = max_tokens
        self._of_prompts: OrderedDict[bytes, list[_Answer]] = OrderedDict()
        self._answers = 0
        self._tokens = 0

    def clear(self) -> None:
        self._of_prompts.clear()
        self._answers = self._tokens = 0

    def wrote_back(self, tokens: Ids, first: int, namespace: str) -> None:
        """The answer of the prompt `tokens[:first]`, both of whole pages and at least one, is in the tree."""
        *_, (_, key) = prefix_keys(tokens[:first], namespace, self._page)
        ids = tokens[first:].copy()
        answers = self._of_prompts.setdefault(key, [])
        self._of_prompts.move_to_end(key)
        if any(np.array_equal(answer.ids, ids) for answer in answers):
            return
        answers.append(_Answer(ids))
        self._answers += 1
        self._tokens += len(ids)
        if len(answers) > _ANSWERS_OF_PROMPT:
            self._forget(answers.pop(0))
        while self._answers > self._max_answers or self._tokens > self._max_tokens:
            for answer in self._of_prompts.popitem(last=False)[1]:
                self._forget(answer)

    def arrived(self, tokens: Ids, namespace: str) -> None:
        """A prompt that is about to be scheduled."""
        if not self._answers:
            return
        for first, key in prefix_keys(tokens, namespace, self._page):
            answers = self._of_prompts.get(key)
            if answers is not None:
                self._of_prompts.move_to_end(key)
                for answer in answers:
                    self._compare(answer, tokens[first:])

    def _compare(self, answer: _Answer, rest: Ids) -> None:
        if np.array_equal(answer.ids, rest[: len(answer.ids)]):
            self._counts.add("answers_found_again")
        elif self._begins_with_text(rest, answer):
            self._counts.add("answers_reencoded")

    def _begins_with_text(self, rest: Ids, answer: _Answer) -> bool:
        if answer.text is None:
            answer.text = self._text(answer.ids)
        # Most prompts that go on differently do so at once.
        head = self._text(rest[: self._page])
        if not answer.text or not (answer.text.startswith(head) or head.startswith(answer.text)):
            return False
        # The same text in more tokens, but hardly in twice as many.
        return self._text(rest[: 2 * len(answer.ids) + self._page]).startswith(answer.text)

    def _text(self, ids: Ids) -> str:
        """Empty where there is no tokenizer, or it cannot read them: that must cost no request its answer."""
        try:
            return "" if self._decode is None else self._decode(ids.tolist()).rstrip(_CUT_OFF)
        except Exception:
            logger.exception("the text of token ids: no re-encoded answers are counted any more")
            self._decode = None
            return ""

    def _forget(self, answer: _Answer) -> None:
        self._answers -= 1
        self._tokens -= len(answer.ids)
