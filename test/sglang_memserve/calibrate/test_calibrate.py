import json
import time

import pytest

from router.cost import CostModel, load_profile
from router.cost.profile import Prefill
from router.cost.speed import Speed
from sglang_memserve.calibrate import calibration
from sglang_memserve.calibrate.options import CalibrationOptions
from sglang_memserve.calibrate.shape import CalibrationError, model_shape
from sglang_memserve.cli.main import main


@pytest.mark.parametrize("backend", ["memserve_cpu", "torch_native"])
def test_a_profile_prices_all_that_a_router_asks(folder, hasty, backend):
    options = CalibrationOptions(
        model=str(folder), device="cpu", attention_backend=backend, transfer_gb_s=2.0
    )
    profile = calibration.measure(options)
    shape = model_shape(str(folder))
    assert CostModel(profile, shape).prefill_seconds([(512, 64), (0, 700)]) > 0
    speed = Speed(profile, shape)
    assert speed.step(2, 300) > 0
    assert speed.swap_in(1000) > 0
    assert speed.send(1000) == pytest.approx(1000 * shape.kv_token_bytes / 2e9, rel=0.01)
    assert {"gemm", "prefill_attention", "norm", "embedding"} <= profile.errors.keys()
    assert profile.about["attention_backend"] == backend


def test_the_engines_overhead_is_fitted_from_whole_prefills(folder, hasty):
    shape = model_shape(str(folder))
    profile = calibration.measure(CalibrationOptions(model=str(folder), device="cpu"))
    plain = CostModel(profile, shape)
    batches = [((0, 64),), ((0, 640),), ((0, 64),) * 3, ((512, 64),), ((0, 320),) * 2]
    prefills = [
        Prefill(batch, 0.05 + 0.001 * len(batch) + 2 * sum(plain.operator_seconds(batch).values()))
        for batch in batches
    ]
    found = calibration.with_overhead(profile, shape, prefills)
    assert found.errors["overhead"] < 0.01
    assert found.prefills == tuple(prefills)
    assert CostModel(found, shape).prefill_seconds(batches[0]) == pytest.approx(prefills[0].seconds, rel=0.02)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"attention_backend": "flashinfer", "device": "cpu"}, "--attention-backend flashinfer: on a CPU"),
        ({"device": "a potato"}, "--device a potato"),
    ],
)
def test_what_cannot_be_measured_is_named(given, named):
    with pytest.raises(CalibrationError, match=named):
        CalibrationOptions(model="any", **given)


def test_a_model_without_a_configuration_is_named(tmp_path):
    with pytest.raises(CalibrationError, match=r"config\.json"):
        model_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(CalibrationError, match="num_attention_heads = None"):
        model_shape(str(tmp_path))


def test_the_command_writes_a_profile_and_says_how_well_it_fits(folder, hasty, capsys):
    file = folder / "profile.json"
    assert main(["calibrate", "--model", str(folder), "--device", "cpu", "--out", str(file)]) == 0
    assert load_profile(file).dtype == "float32"
    said = capsys.readouterr().out
    assert "prefill_attention" in said
    assert str(file) in said


def test_a_missing_folder_is_refused_before_anything_is_measured(folder, capsys):
    begun = time.monotonic()
    assert main(["calibrate", "--model", str(folder), "--out", str(folder / "none" / "profile.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert time.monotonic() - begun < 5


def test_an_instance_that_does_not_answer_is_named(folder, hasty, capsys, free_port):
    url = f"http://127.0.0.1:{free_port()}"
    flags = ["calibrate", "--model", str(folder), "--device", "cpu", "--out", str(folder / "p.json")]
    assert main([*flags, "--url", url]) == 1
    assert f"{url}/server_info does not answer" in capsys.readouterr().err
    assert not (folder / "p.json").exists()
