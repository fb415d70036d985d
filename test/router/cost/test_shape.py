import pytest

from router.cost import ModelShape, ShapeError
from router.cost.attention import Heads


def config(**other):
    sizes = {"num_hidden_layers": 2, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1024}
    return {**sizes, "vocab_size": 100, "torch_dtype": "bfloat16", **other}


def test_what_a_configuration_leaves_out_follows_from_the_rest():
    shape = ModelShape.from_config(config())
    assert (shape.kv_heads, shape.head_dim, shape.dtype) == (8, 64, "bfloat16")
    shape = ModelShape.from_config(config(num_key_value_heads=2, head_dim=128, dtype="float16"), "float32")
    assert (shape.kv_heads, shape.head_dim, shape.dtype) == (2, 128, "float32")
    assert shape.kv_token_bytes == 2 * 2 * 2 * 128 * 4


def test_the_text_part_of_a_multimodal_model_is_taken():
    assert ModelShape.from_config({"text_config": config()}).layers == 2


def test_ranks_share_the_matrices():
    shape = ModelShape.from_config(config(num_key_value_heads=2))
    assert shape.projections(1)["qkv"] == (512 + 2 * 128, 512)
    assert shape.projections(2) == {
        "qkv": (256 + 128, 512),
        "o": (512, 256),
        "gate_up": (1024, 512),
        "down": (512, 512),
    }
    # Norms are computed on every rank in full, activations are shared.
    assert shape.streams(2)["norm"] == shape.streams(1)["norm"]
    assert 2 * shape.streams(2)["activation"][1] == shape.streams(1)["activation"][1]


def test_kv_heads_fewer_than_ranks_are_on_several():
    assert ModelShape.from_config(config(num_key_value_heads=2)).heads_of(4) == Heads(2, 1, 64)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"hidden_size": None}, "hidden_size = None"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers = 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"kv_lora_rank": 512}, "kv_lora_rank = 512"),
        ({"num_experts": 64}, "num_experts = 64"),
        ({"torch_dtype": "int4"}, "'int4' is not priced"),
    ],
)
def test_a_model_without_a_cost_model_is_named(other, named):
    with pytest.raises(ShapeError, match=named):
        ModelShape.from_config(config(**other))


@pytest.mark.parametrize("tp", [0, 3])
def test_ranks_that_do_not_divide_the_heads_are_refused(tp):
    with pytest.raises(ShapeError, match=f"tp = {tp} does not divide 8 heads"):
        ModelShape.from_config(config()).heads_of(tp)
