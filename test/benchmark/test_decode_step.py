"""A decode step is timed while all answers are decoded, and at no other time."""

import pytest

from benchmark.decode_step import RUN, SCHEDULER, DecodeWindow, decode_together
from benchmark.mock_engine import MockEngine
from sglang_memserve.bench.serving.client import Client, open_session
from sglang_memserve.cluster.errors import ClusterError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_only_the_time_in_which_all_are_decoded_counts():
    clock, spent = Clock(), iter((10.0, 10.6))
    window = DecodeWindow(2, 4, lambda: {(SCHEDULER, RUN): next(spent)}, clock)
    for clock.now, answer, tokens in (
        (0.0, "a", 1),
        (5.0, "a", 2),
        (6.0, "b", 1),
        (7.0, "a", 3),
        (7.0, "b", 2),
        (8.0, "b", 3),
        (8.0, "a", 4),
        (20.0, "b", 4),
    ):
        window.saw(answer, tokens)
    # From 3 tokens of both at 6 s to 7 at 8 s: two steps.
    assert window.figures() == {"step_ms": 1000.0, f"{SCHEDULER}: {RUN}_ms": pytest.approx(300.0)}


def test_answers_that_were_not_decoded_together_are_an_error():
    window = DecodeWindow(2, 3, dict, Clock())
    for answer in "ab":
        for tokens in (1, 2, 3):
            window.saw(answer, tokens)
    with pytest.raises(ClusterError, match="2 answers of 3 tokens"):
        window.figures()


async def test_answers_of_a_server_are_decoded_together(free_port):
    mock, port = MockEngine(gap_s=0.01), free_port()
    server = await mock.serve("127.0.0.1", port)
    try:
        async with open_session() as session:
            client = Client(session, f"http://127.0.0.1:{port}", timeout_s=20.0)
            found = await decode_together(client, dict, streams=3, tokens=20, seed="any")
    finally:
        server.close()
    assert found["step_ms"] > 0
