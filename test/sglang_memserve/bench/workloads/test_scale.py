import itertools

import pytest

from sglang_memserve.bench.workloads.lengths import Scaler
from sglang_memserve.bench.workloads.named import workload
from sglang_memserve.bench.workloads.statistics import summarise


def test_scaled_lengths_keep_their_mean_and_are_never_nothing():
    lengths = [3, 10, 20, 48, 154, 386, 1409] * 50
    scaled = Scaler(0.03)
    given = [scaled("question", length) for length in lengths]
    assert min(given) == 1
    assert sum(given) == pytest.approx(0.03 * sum(lengths), abs=1)


def test_each_kind_of_length_keeps_its_own_mean():
    scaled = Scaler(0.5)
    given = [(scaled("question", 1), scaled("answer", 101)) for _ in range(100)]
    assert sum(question for question, _ in given) == 100
    assert sum(answer for _, answer in given) == 5050


def test_without_scale_every_length_stays_as_it_is():
    scaled = Scaler(1.0)
    assert [scaled("answer", length) for length in (5, 0, 7, 1, 3)] == [5, 1, 7, 1, 3]


@pytest.mark.parametrize(("name", "sessions"), [("sharegpt", 2000), ("loogle", 1000), ("react", 800)])
def test_scaling_keeps_the_ratios_of_prompt_answer_and_shared_part(name, sessions):
    full = summarise(workload(name, {"sessions": sessions}))
    small = summarise(workload(name, {"sessions": sessions, "scale": 0.1}))
    for ours, whole in ((small.prompt, full.prompt), (small.output, full.output), (small.added, full.added)):
        assert ours.mean == pytest.approx(0.1 * whole.mean, rel=0.03)
    assert small.turns.mean == pytest.approx(full.turns.mean, rel=0.03)
    assert small.reusable_share == pytest.approx(full.reusable_share, rel=0.02)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("name", ["sharegpt", "loogle", "react", "no-sharing"])
def test_no_prompt_and_answer_pass_the_scaled_context(name, scale):
    made = workload(name, {"sessions": 100, "scale": scale, "max_context": 4096})
    for session in made.sessions:
        grown = itertools.accumulate(len(turn.tokens) + turn.output_tokens for turn in session.turns)
        assert max(grown) <= 4096 * scale
        assert all(turn.tokens and turn.output_tokens >= 1 for turn in session.turns)
