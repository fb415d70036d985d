"""Whether an answer comes back under the token ids that were generated, by which alone it is found."""

import numpy as np
import pytest

from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.written_back_answers import WrittenBackAnswers

PAGE = 4
# "ab" is one token, or two: what was generated and what a tokenizer makes of its text.
TEXTS = {1: "a", 2: "b", 3: "ab", 4: "c", 5: "d", 6: "e"}
PROMPT = [4, 5, 4, 5, 4, 5, 4, 5]
ANSWER = [1, 2, 6, 6]
REENCODED = [3, 6, 6]


def text_of(ids):
    return "".join(TEXTS[token] for token in ids)


def ids(*parts):
    return np.array([token for part in parts for token in part], dtype=np.int32)


@pytest.fixture
def counts():
    return Counters()


@pytest.fixture
def answers(counts):
    return WrittenBackAnswers(PAGE, counts, text_of)


def test_the_same_ids_are_found_again(answers, counts):
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    answers.compare(ids(PROMPT, ANSWER, [4, 4]), "")
    assert counts.read() == {"answers_found_again": 1}


def test_the_same_text_under_other_ids_is_reencoded(answers, counts):
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    answers.compare(ids(PROMPT, REENCODED, [4, 4]), "")
    assert counts.read() == {"answers_reencoded": 1}


@pytest.mark.parametrize(
    "prompt",
    [
        ids(PROMPT, [1, 2, 6, 5, 5, 5]),
        ids(PROMPT, [3, 6]),
        ids(PROMPT),
        ids(PROMPT[:4], ANSWER, ANSWER),
        ids([5], PROMPT[1:], ANSWER),
    ],
    ids=["other text", "part of it", "the prompt alone", "a part of the prompt", "another prompt"],
)
def test_what_does_not_repeat_the_answer_counts_nothing(answers, counts, prompt):
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    answers.compare(prompt, "")
    assert counts.read() == {}


def test_what_comes_before_the_answer_in_its_first_page_is_of_the_prompt(answers, counts):
    """Prompts end within pages: the part that is looked up by is in whole pages."""
    answers.remember(ids(PROMPT, [5, 1, 2, 6]), len(PROMPT), "")
    answers.compare(ids(PROMPT, [5, 3, 6, 6, 6]), "")
    assert counts.read() == {"answers_reencoded": 1}


def test_each_turn_of_a_chat_is_an_answer_of_its_own(answers, counts):
    first = ids(PROMPT, ANSWER)
    second = ids(first, [5, 5, 5, 5], [6, 6, 1, 2])
    answers.remember(first, len(PROMPT), "")
    answers.compare(second[: len(first) + 4], "")
    answers.remember(second, len(first) + 4, "")
    answers.compare(ids(second[:-4], [6, 6, 3], [4]), "")
    assert counts.read() == {"answers_found_again": 2, "answers_reencoded": 1}


def test_namespaces_stay_apart(answers, counts):
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "one")
    answers.compare(ids(PROMPT, ANSWER), "other")
    assert counts.read() == {}


def test_an_answer_that_came_twice_counts_once(answers, counts):
    for _ in range(2):
        answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    answers.compare(ids(PROMPT, ANSWER), "")
    assert counts.read() == {"answers_found_again": 1}


def test_a_character_that_the_last_page_cuts_off_is_no_difference(counts):
    cut_off = WrittenBackAnswers(PAGE, counts, lambda given: "e\ufffd" if given == [6, 1] else "e\u00e9e")
    cut_off.remember(ids(PROMPT, [6, 1]), len(PROMPT), "")
    cut_off.compare(ids(PROMPT, [2, 3]), "")
    assert counts.read() == {"answers_reencoded": 1}


def test_without_a_tokenizer_only_the_same_ids_are_counted(counts):
    answers = WrittenBackAnswers(PAGE, counts)
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    answers.compare(ids(PROMPT, REENCODED, [4]), "")
    answers.compare(ids(PROMPT, ANSWER), "")
    assert counts.read() == {"answers_found_again": 1}


def test_a_tokenizer_that_fails_is_not_called_again(counts):
    asked = []

    def fails(given):
        asked.append(given)
        raise OverflowError("out of range")

    answers = WrittenBackAnswers(PAGE, counts, fails)
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    for _ in range(3):
        answers.compare(ids(PROMPT, REENCODED, [4]), "")
    answers.compare(ids(PROMPT, ANSWER), "")
    assert len(asked) == 1
    assert counts.read() == {"answers_found_again": 1}


@pytest.mark.parametrize("bound", [{"max_answers": 2}, {"max_tokens": 2 * len(ANSWER)}])
def test_the_answers_met_longest_ago_are_forgotten(counts, bound):
    answers = WrittenBackAnswers(PAGE, counts, text_of, **bound)
    prompts = [[first, *PROMPT[1:]] for first in (1, 2, 3)]
    for prompt in prompts[:2]:
        answers.remember(ids(prompt, ANSWER), len(prompt), "")
    answers.compare(ids(prompts[0]), "")
    answers.compare(ids(prompts[0], [4]), "")
    answers.remember(ids(prompts[2], ANSWER), len(prompts[2]), "")
    for prompt in prompts:
        answers.compare(ids(prompt, ANSWER), "")
    assert counts.read() == {"answers_found_again": 2}
    answers.compare(ids(prompts[1], ANSWER), "")
    assert counts.read() == {"answers_found_again": 2}


def test_of_one_prompt_the_latest_answers_are_remembered(answers, counts):
    for number in (1, 2, 4, 5, 6):
        answers.remember(ids(PROMPT, [number] * PAGE), len(PROMPT), "")
    for number in (1, 2, 4, 5, 6):
        answers.compare(ids(PROMPT, [number] * PAGE), "")
    assert counts.read() == {"answers_found_again": 4}


def test_a_flush_forgets_all(answers, counts):
    answers.remember(ids(PROMPT, ANSWER), len(PROMPT), "")
    answers.clear()
    answers.compare(ids(PROMPT, ANSWER), "")
    assert counts.read() == {}
