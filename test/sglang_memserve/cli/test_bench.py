"""`memserve bench`: a whole run against running systems, and what it says of bad input."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from functools import partial

import pytest

from benchmark.mock_engine import MockEngine
from sglang_memserve.bench.chart import Chart
from sglang_memserve.bench.serving import benchmark
from sglang_memserve.bench.serving.rounds import ComparisonPlan
from sglang_memserve.cli import main
from sglang_memserve.cluster.errors import ClusterError

SMALL = ("--sessions", "4", "--rates", "20", "--scale", "0.01", "--rounds", "2")


@pytest.fixture(autouse=True)
def no_pause_between_runs(monkeypatch):
    monkeypatch.setattr(benchmark, "ComparisonPlan", partial(ComparisonPlan, between_s=0.01))


@pytest.fixture
def mock(free_port, forked_python):
    """Starts mock engines, and returns the URL of each once it serves."""
    running = []

    def start(*flags):
        port = free_port()
        command = [*forked_python(), "-m", "benchmark.mock_engine", "--port", str(port), *flags]
        running.append(subprocess.Popen(command))
        deadline = time.monotonic() + 20
        while not answers(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in running:
        process.kill()
        process.wait()


def answers(port):
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bench(free_port, forked_python):
    """`bench(engine, *flags)`: a process that measures `engine`, which serves as long as the block lasts."""

    @contextlib.asynccontextmanager
    async def running(engine, *flags):
        port = free_port()
        module = "sglang_memserve.cli.main"
        command = [*forked_python("sglang_memserve.bench.serving.benchmark"), "-m", module, "bench", *SMALL]
        command += ["--url", f"a=http://127.0.0.1:{port}", *flags]
        async with await engine.serve("127.0.0.1", port), asyncio.timeout(60):
            process = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    return running


@pytest.fixture
def charts(monkeypatch):
    """What is drawn, by file. It takes a second each: it is done once, and else left to test_chart.py."""
    saved, save = {}, Chart.save

    def note(chart, file):
        if file.stem == "timeline-1":
            save(chart, file)
        saved[file.name] = chart

    monkeypatch.setattr(Chart, "save", note)
    return saved


def test_two_systems_are_compared(mock, tmp_path, capsys, charts):
    fast, slow = mock("--first-ms", "5", "--gap-ms", "1"), mock("--first-ms", "100", "--gap-ms", "1")
    plot, records = tmp_path / "plots", tmp_path / "records.jsonl"
    argv = ["bench", "--url", f"fast={fast}", "--url", f"slow={slow}", *SMALL, "--rates", "20,40"]
    assert main.main([*argv, "--json", "--plot", str(plot), "--records", str(records)]) == 0
    out, err = capsys.readouterr()
    *table, last = out.splitlines()
    assert any(line.split()[:1] == ["fast:"] for line in table)
    report = json.loads(last)
    assert set(report) == {"machine", "results", "bars", "skipped"}
    for arms in report["results"].values():
        assert arms["slow"]["ttft_p50_ms"]["median"] - arms["fast"]["ttft_p50_ms"]["median"] > 50
        assert arms["slow"]["failed_percent"]["high"] == 0
    assert len(report["results"]) == 2
    assert [file.name for file in plot.iterdir()] == ["timeline-1.svg"]
    assert list(charts) == ["rates.svg", "cdf-1.svg", "timeline-1.svg", "cdf-2.svg", "timeline-2.svg"]
    assert all(panel.points for chart in charts.values() for panel in chart.panels)
    assert all(set(panel.curves) == {"fast", "slow"} for panel in charts["cdf-2.svg"].panels)
    requests = sum(report["machine"]["workloads"][label]["requests"] for label in report["results"])
    assert len(records.read_text().splitlines()) == 2 * 2 * requests
    assert "round 2 of 2" in err


def test_a_key_is_not_reported(mock, capsys):
    argv = ["bench", "--url", f"a={mock('--first-ms', '1')}", *SMALL, "--json", "--api-key", "K-secret"]
    assert main.main(argv) == 0
    assert "K-secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "give --arms, --url"),
        (["--arms", "colocatde"], "--arms colocatde: there is no such arm"),
        (["--url", "http://x:1"], "--url http://x:1: give NAME=URL"),
        (["--url", "a=http://x:1", "--url", "a=http://y:1"], "a is there twice"),
        (["--url", "a=http://x:1", "--workload", "shareGPT"], "shareGPT"),
        (["--url", "a=http://x:1", "--", "--page-size", "1"], "--page-size after `--`"),
    ],
)
def test_bad_input_is_a_line_and_not_a_traceback(argv, complaint, capsys):
    assert main.main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert complaint in err
    assert "Traceback" not in err
    assert out == ""


def test_missing_peers_are_a_line_and_not_a_traceback(capsys):
    assert main.main(["bench", "--arms", "stock-pd", "--peers", "/nowhere"]) == 1
    out, err = capsys.readouterr()
    assert "scripts/setup_peers.sh" in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--rates", "1,zero"),
        ("--scale", "-1"),
        ("--sessions", "0"),
        ("--rounds", "1.5"),
        ("--option", "document"),
        ("--option", "document=[1,"),
        ("--api", "telepathy"),
    ],
)
def test_a_bad_value_is_named(flag, value, capsys):
    with pytest.raises(SystemExit) as refused:
        main.main(["bench", "--url", "a=http://x:1", flag, value])
    assert refused.value.code == 2
    errors = capsys.readouterr().err
    assert flag in errors
    assert value.split(",")[-1] in errors


def test_a_running_system_on_a_cpu_gets_a_gentle_load_and_flags_win(mock, capsys, monkeypatch):
    async def measured(*_):
        raise ClusterError("not measured here")

    monkeypatch.setattr("sglang_memserve.bench.serving.benchmark._measured", measured)
    argv = ["bench", "--url", f"a={mock('--first-ms', '400')}"]
    assert main.main(argv) == 1
    said = capsys.readouterr().err
    assert "load: 10 sessions, 0.25 a second, lengths times 0.2, for a took 0.4" in said
    assert main.main([*argv, "--sessions", "3", "--rates", "9", "--scale", "0.1"]) == 1
    assert "load:" not in capsys.readouterr().err


def test_a_system_that_is_not_there_is_named(free_port, capsys):
    url = f"http://127.0.0.1:{free_port()}"
    assert main.main(["bench", "--url", f"mine={url}", *SMALL]) == 1
    assert f"mine ({url}) fails its first request" in capsys.readouterr().err


def test_arms_and_workloads_are_listed(capsys):
    assert main.main(["bench", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "stock-pd-radix" in listed
    assert "no-sharing" in listed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_run_shows_what_was_answered(bench, number, code):
    engine = MockEngine(first_s=0.01, gap_s=0.001)
    # One session after the other, for a while.
    load = ("--sessions", "300", "--rates", "20", "--workload", "no-sharing")
    async with bench(engine, *load) as process:
        # One to warm up, and of the others all but the last were answered long before it.
        while len(engine.bodies) < 12:
            await asyncio.sleep(0.05)
        assert process.returncode is None
        process.send_signal(number)
        table, said = (output.decode() for output in await process.communicate())
    assert process.returncode == code
    assert "TTFT P50, ms" in table
    assert "ended early: interrupted" in table
    assert "Traceback" not in said


async def test_ctrl_c_ends_it_at_once(bench):
    engine = MockEngine(first_s=20)
    async with bench(engine) as process:
        while not engine.bodies:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            _, said = await process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said.decode()
