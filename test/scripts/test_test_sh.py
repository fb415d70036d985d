"""scripts/test.sh: its stages, with tools that do nothing but write down how they were called."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("ruff", "lint-imports", "mypy", "mkdocs", "python")
SHARES = 4
FAKE = """#!/bin/sh
call="$(basename "$0") $*"
echo "$call" >>calls
echo "$call, in 1 s"
env | grep ^MEMSERVE_ >>environment
while read -r prefix; do
    case "$call" in "$prefix"*) exit 1 ;; esac
done <fails
exit 0
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the scripts and fakes of what they call. Lines of `fails`: how calls that fail begin."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("e2e", "mempool", "newcomer", "router", "security", "sglang_memserve", "support"):
        (tmp_path / "test" / name).mkdir(parents=True)
    for name in ("mkdocs.yml", "calls", "environment"):
        (tmp_path / name).touch()
    for name in ("test.sh", "check.sh", "unit_tests.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for path in (tmp_path / "scripts" / "setup.sh", *(tmp_path / ".venv" / "bin" / tool for tool in TOOLS)):
        path.write_text(FAKE)
        path.chmod(0o755)
    return tmp_path


@pytest.fixture
def run(checkout):
    """Runs test.sh: its exit status, what it printed, and the calls that it made."""

    def call(*arguments, fails=()):
        (checkout / "fails").write_text("".join(f"{prefix}\n" for prefix in fails))
        env = os.environ | {"MEMSERVE_PORT": "1"}
        command = ["bash", "scripts/test.sh", *arguments]
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout, (checkout / "calls").read_text().splitlines()

    return call


def pytests(calls):
    return [call.removeprefix("python -m pytest ") for call in calls if call.startswith("python -m pytest")]


def test_all_stages_run_and_the_last_line_is_of_the_last(run):
    status, printed, calls = run()
    assert status == 0
    assert pytests(calls)[-1] == "test/e2e"
    tools = [call.split()[0] for call in calls]
    assert tools == ["setup.sh", "ruff", "ruff", "lint-imports", "mypy", "mkdocs"] + ["python"] * (SHARES + 2)
    assert printed.splitlines()[-1] == "python -m pytest test/e2e, in 1 s"
    stages = ["check", "docs", "unit tests", "attacks", "real servers"]
    assert [
        line.removeprefix("== ").split(" (")[0] for line in printed.splitlines() if "==" in line
    ] == stages


def test_each_folder_of_unit_tests_is_in_one_share(run):
    *shares, attacks, _ = pytests(run()[2])
    assert attacks == "test/security"
    folders = [word for share in shares for word in share.split() if not word.startswith("-")]
    own = ["test/sglang_memserve/bench", "test/sglang_memserve/cli", "test/sglang_memserve/cluster"]
    assert sorted(folders) == [
        "test/mempool", "test/newcomer", "test/router", "test/sglang_memserve", *own,
    ]  # fmt: skip
    (engine,) = (share for share in shares if share.startswith("test/sglang_memserve "))
    assert [word.removeprefix("--ignore=") for word in engine.split() if "--ignore" in word] == own


@pytest.mark.parametrize(
    "tool",
    [
        "ruff check",
        "ruff format",
        "lint-imports",
        "mypy",
        "mkdocs",
        "python -m pytest test/mempool",
        "python -m pytest test/e2e",
    ],
)
def test_a_failure_of_any_stage_is_the_result_and_the_others_still_run(run, tool):
    status, printed, calls = run(fails=[tool])
    assert status == 1
    assert len(pytests(calls)) == SHARES + 2
    assert printed.splitlines()[-1] == "python -m pytest test/e2e, in 1 s"


def test_the_seconds_of_each_stage_are_printed_and_what_failed(run):
    _, printed, _ = run(fails=["mypy"])
    (line,) = (line for line in printed.splitlines() if line.startswith("== real servers"))
    assert "set-up 0 s, check " in line
    assert line.count("FAILED") == 1
    assert "docs" in line
    assert "unit tests" in line
    assert "attacks" in line


def test_without_a_set_up_nothing_runs(run):
    status, _, calls = run(fails=["setup.sh"])
    assert (status, len(calls)) == (1, 1)


def test_full_goes_to_both_stages_of_tests(run):
    *unit, e2e = pytests(run("--full")[2])
    assert all(call.endswith("--full") for call in unit)
    assert e2e == "test/e2e --full"


def test_arguments_are_passed_on_to_one_stage(run):
    status, _, calls = run("test/router", "-k", "pair or leg")
    assert status == 0
    assert pytests(calls) == ["test/router -k pair or leg"]


def test_servers_do_not_read_what_a_users_shell_has_set(run, checkout):
    run()
    seen = (checkout / "environment").read_text().splitlines()
    assert seen == ["MEMSERVE_PORT=1"]  # the set-up's alone


def test_real_servers_are_not_started_side_by_side():
    # The last names no folder; pyproject.toml's have a conftest.py each, which import torch.
    default = ["-o", "testpaths=test/scripts test/e2e"]
    runs = [["test/e2e"], ["test/e2e/test_answers.py::test_x"], ["test"], default]
    code = "import json, sys, pytest; print([int(pytest.main(run)) for run in json.loads(sys.argv[1])])"
    flags = ["-n", "2", "-p", "no:cacheprovider", "--collect-only"]
    command = [sys.executable, "-c", code, json.dumps([[*flags, *run] for run in runs])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == [4] * len(runs)
    assert done.stderr.count("leave it out, or -n") == len(runs)
