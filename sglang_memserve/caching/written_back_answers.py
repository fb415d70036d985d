"""Answers that were written back, and whether later prompts repeat them by the same token ids.

A client that sends text has it tokenized again. The ids may differ from those that were generated: then the
KV of the answer is here, and is not found.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.prefix_keys import TokenIds, prefix_keys

logger = logging.getLogger(__name__)

# Each prompt that goes on from the same one may have to be compared with all of them.
_ANSWERS_OF_PROMPT = 4
# What a tokenizer makes of a character that is cut off by the answer's last page.
_CUT_OFF = "\ufffd"


class _Answer:
    def __init__(self, ids: TokenIds) -> None:
        self.ids = ids
        self.text: str | None = None


class WrittenBackAnswers:
    """For one thread. Remembers `max_answers` answers and `max_tokens` tokens of them, those met last.

    `decode`: the tokenizer's, token ids to text; without it only answers that come by their ids are counted.
    """

    def __init__(
        self,
        page_size: int,
        counters: Counters,
        decode: Callable[[list[int]], str] | None = None,
        *,
        max_answers: int = 4096,
        max_tokens: int = 1 << 20,
    ) -> None:
        self._page_size = page_size
        self._counters = counters
        self._decode = decode
        self._max_answers = max_answers
        self._max_tokens = max_tokens
        self._of_prompts: OrderedDict[bytes, list[_Answer]] = OrderedDict()
        self._answers = 0
        self._tokens = 0

    def clear(self) -> None:
        self._of_prompts.clear()
        self._answers = self._tokens = 0

    def remember(self, tokens: TokenIds, first: int, namespace: str) -> None:
        """`tokens[first:]` answers the prompt `tokens[:first]`. Both are of whole pages, at least one."""
        *_, (_, key) = prefix_keys(tokens[:first], namespace, self._page_size)
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

    def compare(self, tokens: TokenIds, namespace: str) -> None:
        """Counts which of the answers the prompt repeats, by the same ids or as the same text."""
        if not self._answers:
            return
        for first, key in prefix_keys(tokens, namespace, self._page_size):
            answers = self._of_prompts.get(key)
            if answers is not None:
                self._of_prompts.move_to_end(key)
                for answer in answers:
                    self._count(answer, tokens[first:])

    def _count(self, answer: _Answer, rest: TokenIds) -> None:
        if np.array_equal(answer.ids, rest[: len(answer.ids)]):
            self._counters.add("answers_found_again")
        elif self._begins_with_text(rest, answer):
            self._counters.add("answers_reencoded")

    def _begins_with_text(self, rest: TokenIds, answer: _Answer) -> bool:
        if answer.text is None:
            answer.text = self._text(answer.ids)
        # Most prompts that go on differently do so at once.
        head = self._text(rest[: self._page_size])
        if not answer.text or not (answer.text.startswith(head) or head.startswith(answer.text)):
            return False
        # The same text in more tokens, but hardly in twice as many.
        return self._text(rest[: 2 * len(answer.ids) + self._page_size]).startswith(answer.text)

    def _text(self, ids: TokenIds) -> str:
        """Empty where there is no tokenizer, or it cannot read the ids."""
        try:
            return "" if self._decode is None else self._decode(ids.tolist()).rstrip(_CUT_OFF)
        except Exception:
            logger.exception("the text of token ids: no re-encoded answers are counted any more")
            self._decode = None
            return ""

    def _forget(self, answer: _Answer) -> None:
        self._answers -= 1
        self._tokens -= len(answer.ids)
