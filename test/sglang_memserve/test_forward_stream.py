"""After what KV may be read or overwritten, with streams that take notes in place of CUDA's."""

import pytest
import torch

from sglang_memserve.forward_stream import ForwardStream

CUDA = torch.device("cuda")


class Stream:
    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def wait_stream(self, other):
        self.notes.append(f"{self.name} waits for {other.name}")

    def record_event(self):
        self.notes.append(f"event on {self.name}")
        return f"{self.name}'s event"


@pytest.fixture
def notes():
    return []


@pytest.fixture(autouse=True)
def current(monkeypatch, notes):
    stream = Stream("schedule", notes)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return stream


def test_without_cuda_nothing_runs_behind_the_scheduler(notes):
    assert ForwardStream(torch.device("cpu"), Stream("forward", notes)).record() is None
    assert notes == []


def test_without_overlap_forwards_are_on_the_current_stream(notes):
    assert ForwardStream(CUDA).record() == "schedule's event"
    assert notes == ["event on schedule"]


def test_under_overlap_what_the_scheduler_itself_writes_counts_too(notes):
    assert ForwardStream(CUDA, Stream("forward", notes)).record() == "forward's event"
    assert notes == ["forward waits for schedule", "event on forward"]
