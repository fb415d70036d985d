"""What the CPU attention cannot do is refused before a token is computed, with its name."""

from types import SimpleNamespace

import pytest
import torch

from sglang_memserve.cpu.attention import limits
from sglang_memserve.limits import Unsupported


class MHATokenToKVPool(SimpleNamespace):
    pass


class MLATokenToKVPool(SimpleNamespace):
    pass


PLAIN_LAYER = {
    "sliding_window_size": -1,
    "is_cross_attention": False,
    "attn_type": SimpleNamespace(value="decoder"),
    "logit_cap": 0.0,
    "xai_temperature_len": -1,
    "pos_encoding_mode": "NONE",
}


@pytest.fixture
def refuse(monkeypatch):
    """Refuses a runner of a plain model, but for what is given; `layer` alters one of its two layers."""

    def call(device="cpu", pool=None, layer=None, arguments=None, config=None):
        layers = [SimpleNamespace(**PLAIN_LAYER), SimpleNamespace(**PLAIN_LAYER | (layer or {}))]
        monkeypatch.setattr(limits, "attention_layers", lambda model: layers)
        plain = MHATokenToKVPool(dtype=torch.bfloat16, kv_cache_layout="nhd")
        arguments = {"speculative_algorithm": None, "dllm_algorithm": None} | (arguments or {})
        config = {"is_encoder_decoder": False, "has_attention_sinks": False} | (config or {})
        limits.refuse_unsupported(
            SimpleNamespace(
                device=device,
                model=None,
                token_to_kv_pool=pool or plain,
                server_args=SimpleNamespace(**arguments),
                model_config=SimpleNamespace(**config),
            )
        )

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_plain_model_is_served(refuse, dtype):
    refuse(pool=MHATokenToKVPool(dtype=dtype, kv_cache_layout="nhd"))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"device": "cuda"}, "the device cuda"),
        ({"arguments": {"speculative_algorithm": "EAGLE"}}, "--speculative-algorithm"),
        ({"arguments": {"dllm_algorithm": "LowConfidence"}}, "--dllm-algorithm"),
        ({"config": {"is_encoder_decoder": True}}, "cross attention"),
        ({"config": {"has_attention_sinks": True}}, "attention sinks"),
        ({"pool": MLATokenToKVPool()}, "MLATokenToKVPool"),
        ({"pool": MHATokenToKVPool(dtype=torch.float8_e4m3fn, kv_cache_layout="nhd")}, "float8_e4m3fn"),
        ({"pool": MHATokenToKVPool(dtype=torch.bfloat16, kv_cache_layout="hnd")}, "SGLANG_USE_HND_KVCACHE"),
        ({"layer": {"sliding_window_size": 128}}, "a sliding window"),
        ({"layer": {"is_cross_attention": True}}, "cross attention"),
        ({"layer": {"attn_type": SimpleNamespace(value="encoder_only")}}, "encoder_only attention"),
        ({"layer": {"logit_cap": 50.0}}, "a logit cap"),
        ({"layer": {"xai_temperature_len": 1024}}, "xai_temperature_len"),
        ({"layer": {"pos_encoding_mode": "ALIBI"}}, "ALIBI"),
    ],
)
def test_what_is_not_served_is_refused_by_name(refuse, asked, name):
    with pytest.raises(Unsupported, match="--attention-backend memserve_cpu does not serve") as refused:
        refuse(**asked)
    assert name in str(refused.value)


def test_everything_is_named_at_once_and_once(refuse):
    with pytest.raises(Unsupported) as refused:
        refuse(layer={"logit_cap": 30.0, "is_cross_attention": True}, config={"is_encoder_decoder": True})
    message = str(refused.value)
    assert "a logit cap" in message
    assert "encoder-decoder" in message
    assert message.count("a logit cap") == 1


def test_the_layers_that_are_looked_at_are_sglangs():
    from sglang.srt.layers.radix_attention import RadixAttention

    attention = RadixAttention(4, 16, 0.25, 2, 0, logit_cap=30.0, sliding_window_size=64)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(attention))
    assert limits.attention_layers(model) == [attention]
    assert list(limits._of_layer(attention)) == ["a sliding window", "a logit cap"]
    plain = RadixAttention(4, 16, 0.25, 2, 0)
    assert list(limits._of_layer(plain)) == []
