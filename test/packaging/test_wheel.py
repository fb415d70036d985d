"""The wheel as someone gets it who has nothing of ours."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEE = """
import json
from importlib.metadata import distribution, entry_points
groups = ("sglang.srt.plugins", "sglang.srt.platforms", "console_scripts")
print(json.dumps({
    "entries": {e.name: [group, e.value] for group in groups for e in entry_points(group=group)},
    "files": [str(f) for f in distribution("sglang-memserve").files],
    "extras": distribution("sglang-memserve").metadata.get_all("Provides-Extra"),
    "license": distribution("sglang-memserve").metadata["License-Expression"],
}))
import mempool.wire, mempool.layout
import sys; assert not {"torch", "sglang"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What a clean environment sees of the wheel, and its python."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mempool", "router", "sglang_memserve"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source])
    (wheel,) = folder.glob("*.whl")
    # Our pip installs into it: one of its own takes half of the time that all this takes.
    run([sys.executable, "-m", "venv", "--without-pip", folder / "clean"])
    python = folder / "clean" / "bin" / "python"
    run([*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-compile", wheel])
    # Only what imports without a dependency can be tried there; msgspec is borrowed for the wire types.
    borrowed = Path(__import__("msgspec").__file__).parents[1]
    lent = folder / "lent"
    lent.mkdir()
    (lent / "msgspec").symlink_to(borrowed / "msgspec")
    out = run([python, "-c", f"import sys; sys.path.append({str(lent)!r})\n{SEE}"])
    return json.loads(out)


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("memserve", ["console_scripts", "sglang_memserve.cli.main:main"]),
        ("memserve_cpu", ["sglang.srt.platforms", "sglang_memserve.cpu.platform:activate"]),
    ],
)
def test_entry_points(installed, name, entry):
    assert installed["entries"][name] == entry


def test_every_package_is_in_the_wheel_with_its_types(installed):
    files = set(installed["files"])
    for package in ("mempool", "router", "sglang_memserve"):
        sources = {
            str(p.relative_to(ROOT)) for end in ("py", "json") for p in (ROOT / package).rglob(f"*.{end}")
        }
        assert sources <= files
        assert f"{package}/py.typed" in files
    assert not any(file.startswith("test") for file in files)


def test_extras_and_licence(installed):
    assert {"gpu", "test"} <= set(installed["extras"])
    assert installed["license"] == "Apache-2.0"
