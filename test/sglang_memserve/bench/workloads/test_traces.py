"""The loaders on the public traces, where these are at hand, against the figures measured on them."""

from functools import partial

import pytest

from sglang_memserve.bench.workloads.named import workload
from sglang_memserve.bench.workloads.statistics import summarise

near = partial(pytest.approx, rel=0.01)


class Chars:
    """Four characters a token, about what Llama-2's tokenizer makes of English."""

    def encode(self, text):
        return [hash(text[at : at + 4]) % 30000 for at in range(0, len(text), 4)]


def test_sharegpt_has_the_measured_figures_in_the_window_and_without(traces):
    summary = summarise(workload("sharegpt", {"sessions": None}, traces))
    assert (summary.requests, summary.prompt.mean, summary.output.mean) == (38927, near(1111), near(316))
    assert (summary.reusable_share, summary.reusable_share_of_request) == (near(0.937), near(0.715))


def test_react_has_the_measured_steps_and_the_few_shot_prompt(traces):
    summary = summarise(workload("react", {"sessions": None}, traces))
    assert (summary.sessions, summary.turns.mean, summary.output.mean) == (500, near(2.77), near(43))
    made = workload("react", {"sessions": 5}, traces, Chars())
    assert 1400 < summarise(made).prompt.mean < 1700
    assert summarise(made).reusable_share > 0.7


def test_loogle_shares_its_documents(traces):
    made = workload("loogle", {"sessions": None}, traces, Chars())
    summary = summarise(made)
    assert summary.sessions > 20
    assert 2600 < summary.prompt.p50 < 3900
    assert summary.reusable_share > 0.8


def test_mooncake_has_the_measured_lengths_and_shared_blocks(traces):
    summary = summarise(workload("mooncake", {"sessions": None, "scale": 1 / 64}, traces))
    assert (summary.requests, summary.seconds, summary.rate) == (12031, near(3537), near(3.4))
    assert summary.prompt.mean == near(12035 / 64)
    assert summary.output.mean == pytest.approx(343 / 64, rel=0.02)
    assert summary.reusable_share == near(0.374)
    assert summary.reusable_share_of_request == near(0.409)


def test_mooncake_within_a_context_keeps_only_what_fits(traces):
    made = workload("mooncake", {"sessions": 50, "max_context": 4096, "rate": 10.0}, traces)
    summary = summarise(made)
    assert summary.sessions == 50
    assert summary.seconds == near(4.9)
    assert all(len(s.turns[0].tokens) + s.turns[0].output_tokens <= 4096 for s in made.sessions)


def test_azure_has_the_measured_lengths_and_nothing_shared(traces):
    summary = summarise(workload("azure", {"sessions": None, "scale": 0.1}, traces))
    assert (summary.requests, summary.rate) == (19366, near(5.5))
    assert (summary.prompt.mean, summary.output.mean) == (near(115.5), near(21.1))
    assert summary.reusable_share < 0.005  # prompts that chance begins with one or two equal tokens
