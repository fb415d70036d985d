"""Every script says what it is for, without doing it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(path.name for path in (ROOT / "scripts").glob("bench_*.py"))


def run(*command, cwd=ROOT):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_help(name, forked_python):
    done = run(*forked_python(), f"scripts/{name}", "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert "--rounds" in done.stdout


def test_help_waits_for_the_import_of_neither_torch_nor_sglang(forked_python):
    scripts = [f"scripts/{name}" for name in BENCHMARKS]
    code = "import runpy, sys; [runpy.run_path(path, run_name='imported') for path in sys.argv[1:]]; "
    done = run(*forked_python(), "-c", code + "print(*{'torch', 'sglang'} & {*sys.modules})", *scripts)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_contributing_lists_every_benchmark():
    rows = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| `")]
    listed = [row.split("`")[1].removeprefix("scripts/") for row in rows if "bench_" in row]
    assert sorted(listed) == BENCHMARKS


def test_the_gpu_tests_print_their_plan_without_a_gpu():
    done = run("bash", "scripts/test_gpu.sh", "--plan", "--only", "pd")
    assert done.returncode == 0, done.stderr
    assert "scripts/bench_pd.py --device cuda" in done.stdout


def test_setup_peers_has_help():
    done = run("bash", "scripts/setup_peers.sh", "--help")
    assert done.returncode == 0, done.stderr
    assert "Mooncake" in done.stdout
    assert "set -euo" not in done.stdout


def test_setup_peers_refuses_an_argument_that_it_does_not_know():
    done = run("bash", "scripts/setup_peers.sh", "--halp")
    assert done.returncode == 1
    assert "--halp" in done.stderr


def test_setup_peers_wants_an_environment_first(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("setup_peers.sh", "setup_lib.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    done = run("bash", str(tmp_path / "scripts" / "setup_peers.sh"), cwd=tmp_path)
    assert done.returncode == 1
    assert "scripts/setup.sh" in done.stderr


@pytest.mark.parametrize("name", ["bench_router.py", "bench_pd.py", "bench_caching.py"])
def test_a_benchmark_without_its_peer_says_so_and_measures_nothing(tmp_path, name, forked_python):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    done = run(*forked_python(), str(tmp_path / "scripts" / name), "--json")
    assert done.returncode == 1
    assert "scripts/setup_peers.sh" in done.stderr
    assert done.stdout == ""
