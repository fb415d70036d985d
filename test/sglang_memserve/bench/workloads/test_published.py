"""The generators against the figures published of, or measured on, the real workloads."""

from functools import partial

import pytest

from sglang_memserve.bench.workloads.loogle import LoogleSettings, loogle
from sglang_memserve.bench.workloads.no_sharing import NoSharingSettings, no_sharing
from sglang_memserve.bench.workloads.react import ReactSettings, react
from sglang_memserve.bench.workloads.sharegpt import ShareGptSettings, sharegpt
from sglang_memserve.bench.workloads.statistics import summarise

near = partial(pytest.approx, rel=0.05)


def test_sharegpt_has_the_turns_and_lengths_of_real_chats():
    chats = sharegpt(ShareGptSettings(sessions=10000, max_context=None, seed=1))
    summary = summarise(chats)
    assert summary.turns.mean == near(6.50)
    assert (summary.turns.p50, summary.turns.p90, summary.turns.p99) == (3, near(14), near(56))
    assert sum(len(chat.turns) > 1 for chat in chats.sessions) / 10000 == near(0.693)
    assert (summary.added.mean, summary.added.p50, summary.added.p90) == (near(94.7), near(20), near(154))
    assert (summary.output.mean, summary.output.p50, summary.output.p90) == (
        near(334.8),
        near(297),
        near(670),
    )


def test_sharegpt_in_a_4096_token_window_has_the_measured_prompts():
    summary = summarise(sharegpt(ShareGptSettings(sessions=4000, seed=1)))
    assert summary.turns.mean == near(4.14)
    assert summary.prompt.mean == near(1111)
    assert summary.output.mean == near(316)
    assert summary.reusable_share == near(0.937)
    assert summary.reusable_share_of_request == near(0.715)


def test_loogle_has_the_documents_and_questions_of_the_recipe():
    summary = summarise(loogle(LoogleSettings(sessions=2000, seed=1)))
    document, question, answer = 3200, 22.8, 27.7
    assert summary.turns.mean == 1
    assert summary.prompt.mean == near(document + question)
    assert summary.output.mean == near(answer)
    assert summary.reusable_share == near(4 / 5 * document / (document + question))


@pytest.fixture(scope="module")
def runs():
    return react(ReactSettings(sessions=1500, seed=1))


def test_react_has_the_steps_and_lengths_of_real_runs(runs):
    summary = summarise(runs)
    assert summary.turns.mean == near(3.70)
    assert (summary.turns.p50, summary.turns.p90, max(len(run.turns) for run in runs.sessions)) == (3, 6, 6)
    assert (summary.output.mean, summary.output.p50, summary.output.p90) == (near(49.7), near(47), near(66))
    assert summary.prompt.mean == near(2241)
    assert summary.reusable_share == near(0.93)


def test_react_adds_questions_and_observations_of_the_measured_length(runs):
    runs = runs.sessions
    questions = [len(run.turns[0].tokens) - 1889 for run in runs]
    seen = [len(turn.tokens) for run in runs for turn in run.turns[1:]]
    # The last observation of a run, of 12 or 13 tokens, is in the measured mean but in no prompt.
    assert sum(questions) / len(runs) == near(26.6)
    assert (sum(seen) + 12.5 * len(runs)) / (len(seen) + len(runs)) == near(155)


def test_no_sharing_is_as_long_as_sharegpt_with_nothing_reusable():
    workload = no_sharing(NoSharingSettings(sessions=4000, seed=1))
    summary = summarise(workload)
    assert summary.prompt.mean == near(1111)
    assert summary.output.mean == near(316)
    assert summary.reusable_share == 0
    assert len({session.turns[0].tokens[0] for session in workload.sessions}) == 4000
