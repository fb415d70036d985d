import msgspec
import pytest

from router.cost import CostModel, ModelShape, ProfileError, ShapeError
from router.cost.collective import AllReduce
from router.cost.streams import MemoryBound, Overhead


@pytest.fixture
def model(profile, shape):
    return CostModel(profile, shape)


def test_a_prefill_is_its_operators_and_the_overhead(model):
    batch = [(100, 300), (0, 50)]
    operators = model.operator_seconds(batch)
    assert set(operators) == {"qkv", "o", "gate_up", "down", "norm", "embedding", "attention", "lm_head"}
    assert model.prefill_seconds(batch) == pytest.approx(sum(operators.values()) + 1e-3 + 2e-4)


def test_what_is_cached_costs_its_attention_alone(model):
    whole, cached = model.prefill_seconds([(0, 4000)]), model.prefill_seconds([(3600, 400)])
    assert cached < whole / 5
    assert cached > model.prefill_seconds([(0, 400)])


def test_a_batch_shares_the_forward(model):
    single = model.prefill_seconds([(0, 64)])
    assert single < model.prefill_seconds([(0, 64)] * 4) < 4 * single


@pytest.mark.parametrize("batch", [[], [(500, 0)]])
def test_nothing_new_costs_nothing(model, batch):
    assert model.prefill_seconds(batch) == 0


def test_what_is_longer_than_a_forward_takes_several(profile, shape):
    model = CostModel(profile, shape, forward_tokens=1000)
    parts = [[(200, 1000)], [(1200, 500), (0, 500)], [(500, 300)]]
    assert model.prefill_seconds([(200, 1500), (0, 800)]) == pytest.approx(
        sum(model.prefill_seconds(forward) for forward in parts)
    )


def test_ranks_make_it_faster_and_their_all_reduce_slower(profile, shape):
    free = msgspec.structs.replace(profile, all_reduce=AllReduce(links={2: MemoryBound()}))
    slow = msgspec.structs.replace(profile, all_reduce=AllReduce(links={2: MemoryBound(call_s=1e-3)}))
    alone, pair, slowed = (CostModel(p, shape, tp) for p, tp in ((profile, 1), (free, 2), (slow, 2)))
    batch = [(0, 4000)]
    assert pair.prefill_seconds(batch) < 0.8 * alone.prefill_seconds(batch)
    # Two all-reduces in each of 4 layers.
    assert slowed.prefill_seconds(batch) == pytest.approx(pair.prefill_seconds(batch) + 8e-3)


def test_ranks_without_an_all_reduce_are_refused(profile, shape):
    with pytest.raises(ProfileError, match="tp = 2: the profile of a test has no all-reduce"):
        CostModel(profile, shape, 2)


def test_a_decode_step_grows_with_what_it_reads(model):
    assert model.step_seconds(0, 0) == 0
    short, long, many = (model.step_seconds(*batch) for batch in ((1, 100), (1, 5000), (2, 5000)))
    token_bytes = 2 * 2 * 64 * 2
    assert long - short == pytest.approx(4 * 4900 * token_bytes * 1e-10)
    assert long < many < 2 * long


def test_another_dtype_than_the_profile_is_refused(profile, shape):
    other = msgspec.structs.replace(shape, dtype="float32")
    with pytest.raises(ShapeError, match="computes in float32, the profile was measured in bfloat16"):
        CostModel(profile, other)


def test_the_engines_overhead_is_in_the_estimate(profile, shape):
    scaled = msgspec.structs.replace(profile, overhead=Overhead(scale=2.0, token_s=1e-6))
    model = CostModel(scaled, shape)
    operators = sum(model.operator_seconds([(0, 500)]).values())
    assert model.prefill_seconds([(0, 500)]) == pytest.approx(2 * operators + 500e-6)


def test_a_larger_model_takes_the_same_profile(profile, shape):
    larger = ModelShape(**{**msgspec.structs.asdict(shape), "layers": 8})
    batch = [(0, 2000)]
    small, large = (CostModel(profile, s).operator_seconds(batch) for s in (shape, larger))
    assert large["gate_up"] == pytest.approx(2 * small["gate_up"])
    assert large["lm_head"] == small["lm_head"]
