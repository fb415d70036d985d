import pytest

from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn
from sglang_memserve.bench.workloads.statistics import reusable, summarise


def session(arrival, *turns):
    return WorkloadSession(
        f"s{arrival}", arrival, tuple(WorkloadTurn(tuple(tokens), output) for tokens, output in turns)
    )


def test_a_turn_finds_all_that_came_before_it_in_its_session():
    chat = session(0.0, (range(10), 5), (range(3), 7), (range(2), 1))
    assert reusable([chat]) == [0, 15, 25]
    assert reusable([chat], page_size=16) == [0, 0, 16]


def test_a_first_turn_finds_the_longest_beginning_of_an_earlier_session():
    first, second = (1, 2, 3, 4, 9), (1, 2, 7)
    sessions = [session(0.0, (first, 1)), session(1.0, (second, 1)), session(2.0, ((1, 2, 3, 4, 5), 1))]
    assert reusable(sessions) == [0, 2, 4]
    assert reusable(sessions, page_size=4) == [0, 0, 4]
    assert reusable(sessions, page_size=3) == [0, 0, 3]


def test_a_prompt_finds_itself_whole_or_its_shorter_beginning():
    sessions = [session(0.0, ((1, 2), 1)), session(1.0, ((1, 2), 1)), session(2.0, ((1, 2, 300), 1))]
    assert reusable(sessions) == [0, 2, 2]


@pytest.mark.parametrize("page_size", [1, 4])
def test_the_longest_beginning_is_found_as_by_search_of_all_pairs(page_size):
    import random

    rng = random.Random(7)
    prompts = [tuple(rng.choices((1, 256, 70000), k=rng.randint(1, 12))) for _ in range(200)]

    def alike(prompt, other):
        same = [a == b for a, b in zip(prompt, other, strict=False)]
        return same.index(False) if False in same else len(same)

    expected = [
        max((alike(prompt, other) for other in prompts[:n]), default=0) // page_size * page_size
        for n, prompt in enumerate(prompts)
    ]
    assert reusable([session(float(n), (p, 1)) for n, p in enumerate(prompts)], page_size) == expected


def test_the_summary_counts_what_is_sent_and_what_is_held():
    chat = session(1.0, (range(10), 5), (range(5), 10))
    other = session(4.0, (range(100, 120), 3))
    summary = summarise(Workload("two", (chat, other)))
    assert (summary.name, summary.sessions, summary.requests) == ("two", 2, 3)
    assert (summary.seconds, summary.rate) == (4.0, 0.5)
    assert (summary.turns.mean, summary.added.mean, summary.output.mean) == (1.5, 35 / 3, 6)
    assert (summary.prompt.mean, summary.prompt.p50, summary.prompt.p99) == (50 / 3, 20, 20)
    assert summary.reusable_share == 15 / 50
    assert summary.reusable_share_of_request == pytest.approx((0 + 15 / 20 + 0) / 3)


def test_a_workload_without_sessions_has_no_summary():
    with pytest.raises(ValueError, match="the workload none has no sessions"):
        summarise(Workload("none", ()))
