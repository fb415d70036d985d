"""What bench_decisions takes the router's decision to be, on a built-in profile."""

import json

import pytest

from benchmark.decisions.points import COMPUTE, FETCH, points
from benchmark.decisions.predicted import PredictedTimes, with_transfer
from router.cost.speeds import built_in

# SmolLM2-135M.
CONFIG = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "torch_dtype": "bfloat16",
}
TOKEN_BYTES = 23_040


@pytest.fixture
def at(tmp_path):
    """at(bandwidth): predictions, of instances that tell of themselves as real ones do."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    info = {"model_path": str(tmp_path), "page_size": 16, "memserve": {"instance": "a:1"}}

    def made(bandwidth):
        file = tmp_path / "profile.json"
        with_transfer(built_in("cpu"), bandwidth).save(file)
        return PredictedTimes(file, info)

    return made


@pytest.mark.parametrize("tokens", [512, 2048])
def test_the_decision_turns_where_the_bandwidth_makes_both_ways_as_fast(at, tokens):
    even = at(1e9).bandwidth(tokens, TOKEN_BYTES)
    assert 10e6 < even < 200e6
    assert at(even).fetch(tokens) == pytest.approx(at(even).recompute(tokens))
    assert at(1.05 * even).fetches(tokens)
    assert not at(0.95 * even).fetches(tokens)


def test_a_fetch_is_its_bytes_over_the_bandwidth_and_what_comes_beside(at):
    assert at(10e6).fetch(1024) - at(20e6).fetch(1024) == pytest.approx(1024 * TOKEN_BYTES / 20e6)
    assert at(10e6).recompute(1024) == at(20e6).recompute(1024) == at(10e6).prefill(0, 1040)


def test_points_carry_what_is_predicted_and_decided(at):
    short, long = points(at(28e6), 28e6, (128, 4096))
    assert not short.fetches
    assert long.fetches
    assert short.predicted[FETCH] > short.predicted[COMPUTE]
    assert long.expected == pytest.approx(long.predicted[COMPUTE] - long.predicted[FETCH])
