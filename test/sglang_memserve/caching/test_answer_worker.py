"""Prompts are compared with written-back answers beside the scheduler's thread, which waits for nothing."""

import threading

import numpy as np
import pytest
from waiting import until

from sglang_memserve.caching import answer_worker as module
from sglang_memserve.caching.answer_worker import AnswerWorker
from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.written_back_answers import WrittenBackAnswers

PAGE = 4
PROMPT, ANSWER, OTHER = [4, 5, 4, 5], [1, 2, 6, 6], [3, 6, 6, 6]


def ids(*parts):
    return np.array([token for part in parts for token in part], dtype=np.int32)


class Tokenizer:
    """Its texts are all the same. It waits for `go`, and notes the threads that it ran on."""

    def __init__(self):
        self.go, self.threads = threading.Event(), set()

    def decode(self, tokens):
        self.threads.add(threading.current_thread())
        assert self.go.wait(10)
        return "ab"


@pytest.fixture
def tokenizer():
    return Tokenizer()


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def worker(tokenizer, counters):
    worker = AnswerWorker(WrittenBackAnswers(PAGE, counters, tokenizer.decode), counters)
    yield worker
    tokenizer.go.set()
    worker.close()


def test_text_is_decoded_on_another_thread(worker, tokenizer, counters):
    worker.remember(ids(PROMPT, ANSWER), PAGE, "")
    worker.compare(ids(PROMPT, OTHER), "")
    assert counters.read() == {}
    tokenizer.go.set()
    until(lambda: counters.read() == {"answers_reencoded": 1})
    assert threading.current_thread() not in tokenizer.threads


def test_too_many_prompts_are_dropped_and_counted(worker, tokenizer, counters, monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    worker.remember(ids(PROMPT, ANSWER), PAGE, "")
    worker.compare(ids(PROMPT, OTHER), "")
    until(lambda: tokenizer.threads)
    for _ in range(5):
        worker.compare(ids(PROMPT, ANSWER), "")
    assert counters.read() == {"answer_checks_dropped": 2}
    tokenizer.go.set()
    until(lambda: counters.read().get("answers_found_again") == 3)


def test_a_flush_comes_in_its_turn_however_much_waits(worker, tokenizer, counters, monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 2)
    worker.remember(ids(PROMPT, ANSWER), PAGE, "")
    worker.compare(ids(PROMPT, OTHER), "")
    until(lambda: tokenizer.threads)
    worker.compare(ids(PROMPT, ANSWER), "")
    worker.compare(ids(PROMPT, ANSWER), "")
    worker.clear()
    tokenizer.go.set()
    until(lambda: counters.read().get("answers_found_again") == 2 and worker._waiting.empty())
    worker.remember(ids(ANSWER, PROMPT), PAGE, "")
    worker.compare(ids(ANSWER, PROMPT), "")
    until(lambda: counters.read()["answers_found_again"] == 3)
    worker.compare(ids(PROMPT, ANSWER), "")
    worker.compare(ids(ANSWER, PROMPT), "")
    until(lambda: counters.read()["answers_found_again"] == 4)


def test_without_answers_nothing_is_handed_over(worker, counters, monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 0)
    worker.compare(ids(PROMPT, ANSWER), "")
    assert counters.read() == {}
