"""Which prompts go on from an answer that has yet to come back."""

import numpy as np
import pytest

from sglang_memserve.caching import pending_write_backs as module
from sglang_memserve.caching.pending_write_backs import PendingWriteBacks

PAGE = 4
PROMPT, ANSWER, QUESTION = [1] * 8, [2] * 6, [3] * 5
TURN = PROMPT + ANSWER + QUESTION


def ids(tokens):
    return np.array(tokens, dtype=np.int32)


class Rooms(PendingWriteBacks):
    """With the previous turn of each room's request."""

    def __init__(self, page):
        super().__init__(page)
        self.previous = {}

    def arrived(self, room, tokens, namespace):
        self.previous[room] = super().expect(tokens, namespace)

    def waits(self, room):
        before = self.previous[room]
        return before is not None and self.is_pending(before)


@pytest.fixture
def answers():
    """A first prompt has arrived in room 1."""
    answers = Rooms(PAGE)
    answers.arrived(1, ids(PROMPT), "")
    return answers


def test_the_next_turn_waits_until_the_answer_came(answers):
    answers.arrived(2, ids(TURN), "")
    assert answers.waits(2)
    answers.receive(ids((PROMPT + ANSWER)[:12]), "")
    assert not answers.waits(2)


def test_a_first_turn_waits_for_nothing(answers):
    assert not answers.waits(1)
    answers.arrived(2, ids([7] * 12), "")
    assert not answers.waits(2)


def test_a_turn_after_the_answer_came_does_not_wait(answers):
    answers.receive(ids((PROMPT + ANSWER)[:12]), "")
    answers.arrived(2, ids(TURN), "")
    assert not answers.waits(2)


def test_the_turn_after_next_waits_for_the_answer_in_between(answers):
    answers.receive(ids((PROMPT + ANSWER)[:12]), "")
    answers.arrived(2, ids(TURN), "")
    answers.arrived(3, ids(TURN + ANSWER), "")
    assert answers.waits(3)
    # Also an answer that itself came too late for the one before.
    answers.receive(ids(TURN + [9] * 4), "")
    assert not answers.waits(3)


def test_the_same_prompt_once_more_needs_no_answer(answers):
    answers.arrived(2, ids(PROMPT), "")
    assert not answers.waits(2)


def test_another_namespace_has_answers_of_its_own(answers):
    answers.arrived(2, ids(TURN), "other")
    assert not answers.waits(2)
    answers.arrived(3, ids(TURN), "")
    answers.receive(ids((PROMPT + ANSWER)[:12]), "other")
    assert answers.waits(3)


@pytest.mark.parametrize("length", [1, 3, 4, 7, 9])
def test_prompts_of_any_length_have_answers(length):
    answers = Rooms(PAGE)
    answers.arrived(1, ids([1] * length), "")
    answers.arrived(2, ids([1] * length + ANSWER), "")
    answers.arrived(3, ids([1] * length), "")
    assert [answers.waits(room) for room in (1, 2, 3)] == [False, True, False]
    answers.receive(ids(([1] * length + ANSWER)[: (length + 6) // PAGE * PAGE]), "")
    assert not answers.waits(2)


def test_a_prompt_that_shares_whole_pages_alone_does_not_wait(answers):
    answers.arrived(2, ids([6] * 8 + [1, 2]), "")
    answers.arrived(3, ids([6] * 8 + [1, 3] + ANSWER), "")
    assert not answers.waits(3)


def test_old_prompts_make_room_for_new_ones(answers, monkeypatch):
    monkeypatch.setattr(module, "_MAX_PROMPTS", 2)
    answers.arrived(2, ids([8] * 8), "")
    answers.arrived(3, ids([9] * 8), "")
    answers.arrived(4, ids(TURN), "")
    assert not answers.waits(4)


def test_of_prompts_that_are_nearly_the_same_the_last_are_known(monkeypatch):
    monkeypatch.setattr(module, "_MAX_ALIKE", 2)
    answers = Rooms(PAGE)
    for last in (1, 2, 3):
        answers.arrived(last, ids([5, 5, 5, 5, last]), "")
    for last in (1, 2, 3):
        answers.arrived(10 + last, ids([5, 5, 5, 5, last, *ANSWER]), "")
    assert [answers.waits(10 + last) for last in (1, 2, 3)] == [False, True, True]
