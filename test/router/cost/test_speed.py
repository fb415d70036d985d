"""A model's speed, by the tokens that a router counts in."""

import json

import pytest

from router.cost import CostModel, ProfileError
from router.cost.speed import Speed
from router.cost.speeds import Speeds, built_in, shape_of
from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo


def test_prefill_and_steps_are_the_models(profile, shape):
    speed, model = Speed(profile, shape, 1, 1024), CostModel(profile, shape, 1, 1024)
    for cached, new in ((0, 1), (512, 64), (0, 3000)):
        assert speed.prefill(cached, new) == pytest.approx(model.prefill_seconds([(cached, new)]))
    assert speed.step(2, 1000) == pytest.approx(model.step_seconds(2, 1000))
    assert speed.step(10_000, 0) == speed.step(512, 0)
    assert speed.max_forward_s == speed.prefill(0, 1024)


def test_kv_is_moved_by_its_bytes(profile, shape):
    speed = Speed(profile, shape)
    assert speed.swap_in(100) == pytest.approx(profile.swap_in.seconds(100 * shape.kv_token_bytes))
    assert speed.swap_in(0) == speed.send(0) == speed.send(-5) == 0
    # This profile has no transfer: 10 Gbit/s.
    assert speed.send(1000) == pytest.approx(1000 * shape.kv_token_bytes / 1.25e9)
    assert speed.fetch(1000) > speed.send(1000)


def test_a_prompt_of_any_length_is_priced_at_once(profile, shape):
    speed = Speed(profile, shape)
    assert speed.prefill(0, 1 << 40) == speed.prefill(0, 1 << 20)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_built_in_profiles_price_all_that_a_decision_asks(device):
    profile = built_in(device)
    assert profile.transfer
    assert profile.swap_in
    speed = Speeds().of(reporting(device=device))
    for tokens in (100, 4096, 131_072):
        assert speed.prefill(0, tokens) > speed.prefill(tokens, 1) > 0
    assert (profile.device == "AMD EPYC") == (device == "cpu")


def reporting(**server_info):
    instance = Instance("http://x:1", Role.COLOCATED)
    instance.up()
    instance.learn(ServerInfo(**server_info))
    return instance


CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


async def test_a_models_shape_is_read_where_the_instance_says(folder):
    speeds = Speeds()
    small, same = reporting(model=str(folder), device="cpu"), reporting(model=str(folder), device="cpu")
    await speeds.prepare([small, same])
    assert speeds.by_instance[small] is speeds.by_instance[same] is speeds.of(small)
    assert speeds.of(small).prefill(0, 1000) < speeds.of(reporting(device="cpu")).prefill(0, 1000) / 100
    assert shape_of(str(folder), "bfloat16").layers == 2


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (CONFIG | {"kv_lora_rank": 512}, "kv_lora_rank"),
        (CONFIG | {"num_experts": 8}, "num_experts"),
        ([1], "no object"),
        (None, "no"),
    ],
)
def test_a_model_that_is_not_priced_counts_as_dense_and_is_logged_once(tmp_path, caplog, config, why):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    speeds = Speeds()
    instances = [reporting(model=str(tmp_path), tp=2) for _ in range(3)]
    assert {speeds.of(instance).prefill(0, 100) for instance in instances} == {
        speeds.of(reporting()).prefill(0, 100)
    }
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert why in warnings[0]
    assert str(tmp_path) in warnings[0]


def test_ranks_share_the_work(tmp_path):
    shape = {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    config = CONFIG | shape | {"intermediate_size": 14336}
    (tmp_path / "config.json").write_text(json.dumps(config))
    alone, pair = (Speeds().of(reporting(model=str(tmp_path), device="cuda", tp=tp)) for tp in (1, 2))
    assert alone.prefill(0, 4096) / 2 < pair.prefill(0, 4096) < alone.prefill(0, 4096)
    assert pair.send(10_000) < alone.send(10_000)


def test_speeds_follow_the_server_that_is_at_an_address_now(folder):
    speeds, slow, quick = (
        Speeds(),
        *(reporting(model=str(folder), device=device) for device in ("cpu", "cuda")),
    )
    slowest, before = speeds.of(slow), speeds.of(quick)
    quick.down("gone")
    # Nobody knows what it will be.
    assert speeds.of(quick) is slowest is not before
    quick.learn(ServerInfo(model=str(folder), device="cuda"))
    assert speeds.of(quick) is before


def test_a_given_profile_serves_all_instances(tmp_path, profile):
    profile.save(tmp_path / "p.json")
    speeds = Speeds(str(tmp_path / "p.json"))
    assert speeds.of(reporting(device="cpu")).prefill(0, 9) == speeds.of(reporting(device="cuda")).prefill(
        0, 9
    )
    with pytest.raises(ProfileError, match=r"not\.json"):
        Speeds(str(tmp_path / "not.json"))
