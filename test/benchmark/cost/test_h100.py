"""The accuracy that is promised on public H100 tables: fitted at TP=1, right at TP=2 and 4."""

import pytest

from benchmark import data
from benchmark.cost import h100, tables
from router.cost import CostModel


@pytest.fixture(scope="module")
def folder():
    if missing := tables.missing(data.tables()):
        pytest.skip(f"{data.tables()} lacks {', '.join(missing)}: set {data.VARIABLE}")
    return data.tables()


@pytest.fixture(scope="module")
def profile(folder):
    return h100.h100_profile(folder)


@pytest.fixture(scope="module")
def sums(folder):
    return h100.measured(folder)


@pytest.mark.parametrize(
    ("rows", "without"),
    [("computed", ("attention", "all_reduce")), ("linear", ("attention",))],
)
def test_more_ranks_are_predicted_better_than_by_the_polynomial(profile, sums, rows, without):
    found = h100.errors(profile, getattr(sums, rows), without)
    assert found.lengths.keys() == {1, 2, 4}
    for tp in (2, 4):
        assert found.operators[tp] <= 0.12
        assert found.operators[tp] < found.architecture[tp]


def test_attention_with_another_number_of_heads_is_predicted(profile, sums):
    found = h100.errors(profile, sums.with_attention)
    assert found.lengths[2] >= 10
    assert found.operators[2] <= 0.12
    assert found.operators[2] < found.architecture[2]


def test_sums_hold_all_measured_operators(folder, sums):
    row = next(row for row in tables.linear_rows(folder) if (row.tp, row.tokens) == (1, 4096))
    # The table's four matrices alone, in 32 layers.
    matrices = 32 * sum(row.seconds[name] for name in ("qkv", "o", "gate_up", "down"))
    assert matrices < sums.linear[1][4096] < 1.5 * matrices
    assert sums.with_attention[1][4096] > sums.linear[1][4096]


def test_the_profile_prices_what_a_router_asks(profile):
    model = CostModel(profile, h100.LLAMA2_7B, 2)
    assert 0.01 < model.prefill_seconds([(0, 4096)]) < 0.2
    assert model.prefill_seconds([(3584, 512)]) < model.prefill_seconds([(0, 4096)]) / 3
    assert 1e-3 < model.step_seconds(8, 8000) < 0.05
    assert profile.transfer.seconds(10**9) == pytest.approx(10**9 / 350e9, rel=0.5)
