"""From the steps to the report, as a file for programs and as a page for readers."""

import json
import signal
from functools import partial

import pytest

from benchmark.gpu import __main__ as test_gpu
from benchmark.gpu import host, page
from benchmark.gpu.arguments import parsed
from benchmark.gpu.execution import execute

FIGURES = {
    "machine": {},
    "results": {
        "2048 tokens": {
            "memserve": {"handoff_ms": {"median": 12.345, "low": 11.0, "high": 14.0}},
            "mooncake": {"handoff_ms": {"median": 20.0, "low": 19.0, "high": 21.0}},
        },
        "launch_us": {"alone": 3.14159},
    },
    "bars": [{"name": "a|b", "value": 0.61, "unit": "x", "bar": 0.7, "ok": True, "peer": "Mooncake"},
             {"name": "never", "value": None, "unit": "x", "bar": 1.0, "ok": False}],
    "skipped": ["colocated: --only-handoff"],
}  # fmt: skip


@pytest.fixture
def asked(tmp_path):
    return parsed(["--out", str(tmp_path / "out")])


@pytest.fixture
def run(asked, monkeypatch):
    """run(*steps): the exit status, and what results.json has."""
    monkeypatch.setattr(host, "description", lambda: {"cpu": "a CPU", "commit": "abc", "cores": 2})

    def call(*planned):
        status = test_gpu.run(asked, list(planned), {"gpus": [{"name": "H200", "gb": 141}], "cuda": "13.0"})
        return status, json.loads((asked.out / "results.json").read_text())

    return call


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(run, step, hanging, asked, monkeypatch, capsys):
    monkeypatch.setattr(test_gpu, "execute", partial(execute, grace_s=0.2))
    make, _ = hanging
    measuring = step(f"print({json.dumps(FIGURES)!r})", "measures", measures=True)
    status, found = run(step("import sys; sys.exit(3)", "fails"), make(limit_s=1.0), measuring)
    assert status == 1
    assert [(each["name"], each["status"], each["exit_code"]) for each in found["steps"]] == [
        ("fails", "failed", 3),
        ("hangs", "timed out", 124),
        ("measures", "passed", 0),
    ]
    assert found["steps"][2]["figures"] == FIGURES
    assert all((asked.out / each["log"]).is_file() and each["command"] for each in found["steps"])
    assert found["machine"]["gpus"][0]["name"] == "H200"
    assert found["settings"]["attention_backends"] == ["flashinfer", "fa3"]
    printed = capsys.readouterr().out
    assert "[3/3] measures: passed" in printed
    assert "1 of 3 steps passed" in printed


def test_all_steps_that_pass_are_a_success(run, step):
    assert run(step("pass"), step("pass", "another"))[0] == 0


def test_ctrl_c_ends_the_run_and_the_report_has_what_was_found(run, step, monkeypatch):
    def interrupted(*arguments, execute=execute):
        if arguments[0].name == "second":
            signal.raise_signal(signal.SIGINT)
        return execute(*arguments)

    monkeypatch.setattr(test_gpu, "execute", interrupted)
    status, found = run(step("pass", "first"), step("pass", "second"), step("pass", "third"))
    assert status == 130
    assert [each["name"] for each in found["steps"]] == ["first"]
    assert found["not_run"] == ["second", "third"]


def test_the_page_has_the_host_the_steps_and_the_figures(run, step, asked):
    run(step(f"print({json.dumps(FIGURES)!r})", "bench_pd", measures=True))
    lines = (asked.out / "results.md").read_text().splitlines()
    assert any("H200 (141 GB)" in line and "Qwen/Qwen3-1.7B" in line for line in lines)
    assert any("commit abc" in line for line in lines)
    assert any(line.startswith("| bench_pd | what it does | passed |") for line in lines)
    assert "| a\\|b | 0.61 x | 0.7 | Mooncake | met |" in lines
    assert "| never | not measured x | 1 | - | missed |" in lines
    assert "| 2048 tokens | memserve | mooncake |" in lines
    assert "| handoff_ms | 12.3 (11 to 14) | 20 (19 to 21) |" in lines
    assert "| launch_us, alone | 3.14 |" in lines
    assert "Skipped: colocated: --only-handoff." in lines


def test_tables_of_the_page_have_as_many_cells_in_each_line(run, step, asked):
    run(step(f"print({json.dumps(FIGURES)!r})", "bench_pd", measures=True), step("print('a | b')", "pipes"))
    for block in (asked.out / "results.md").read_text().split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1, block


def test_a_page_without_figures_says_what_was_not_run():
    empty = {"machine": {}, "settings": {"model": "m", "mla_model": "l"}, "began": "now", "steps": []}
    assert "Not run: a, b." in page.rendered(empty | {"not_run": ["a", "b"]})


@pytest.mark.parametrize(
    ("probe", "reason"),
    [('print(\'{"cuda": null, "gpus": []}\')', "finds no CUDA device"), ("1 / 0", "ZeroDivisionError")],
)
def test_without_cuda_it_says_so_and_runs_nothing(monkeypatch, capsys, asked, probe, reason):
    monkeypatch.setattr(host, "_PROBE", probe)
    assert test_gpu.main(["--out", str(asked.out)]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "--plan" in error
    assert not asked.out.exists()
