"""What bench_mempool calls a bar met, what its processes do, and what is left of them."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch.distributed
from waiting import until

from benchmark.mempool import allocation, dist_end, fairness, far, index, modes, parts, throughput
from benchmark.mempool.far import Far, FarError
from benchmark.mempool.index_end import IndexEnd
from benchmark.mempool.pages import scattered
from benchmark.mempool.plan import MeasurementPlan
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import StockPeers

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_mempool.py"
FORKING = Path(__file__).with_name("run_bench_mempool.py")


@pytest.fixture(scope="module")
def bench_mempool(load_script):
    return load_script("bench_mempool")


@pytest.fixture
def small(monkeypatch):
    for name, size in (("ARENA_BYTES", 1 << 20), ("TOTAL_BYTES", 4 << 20), ("WARM_UP_BYTES", 1 << 18)):
        monkeypatch.setattr(throughput, name, size)


@pytest.fixture
def forked_ends(monkeypatch, torch_python):
    """The processes of this test find torch loaded."""
    replaced = {**vars(subprocess), "Popen": torch_python.popen}
    monkeypatch.setattr(far, "subprocess", SimpleNamespace(**replaced))


def values(part, rounds):
    return [(bar.value, bar.ok) for bar in part.bars(rounds)]


def test_no_bar_is_met_by_what_was_not_measured(bench_mempool):
    bars = [bar for part in bench_mempool.PARTS.values() for bar in part.bars(Rounds())]
    assert len(bars) == 23
    assert not any(bar.ok or bar.value is not None for bar in bars)


def test_books_and_fairness_are_judged_by_medians():
    rounds = Rounds()
    for nanoseconds in (90.0, 95.0, 400.0):
        rounds.note(allocation.WORKLOAD, allocation.OURS, **{allocation.FIGURE: nanoseconds})
    rounds.note(fairness.WORKLOAD, fairness.SAME, p99_ms=10.5)
    rounds.note(fairness.WORKLOAD, fairness.OTHER, p99_ms=9.5)
    assert values(allocation, rounds) == [(95.0, True)]
    assert values(fairness, rounds) == [(10.5, False), (9.5, True)]


def test_an_index_is_judged_by_the_ratio_to_its_pair_of_the_round():
    rounds, name = Rounds(), index.workload("one run", "1M")
    for ours, theirs in ((10.0, 20.0), (60.0, 80.0), (99.0, 90.0)):
        index.note(rounds, name, {index.MATCH: {"memserve": ours, "RadixCache": theirs, "Rust core": 1.0}})
    rounds.note(name, "memserve", bytes_a_block=401.0)
    found = {bar.name: (bar.value, bar.ok) for bar in index.bars(rounds) if bar.value is not None}
    assert found == {f"match, {name}": (0.75, True), f"memory, {name}": (401.0, False)}


def test_throughput_is_judged_against_both_peers():
    rounds = Rounds()
    rounds.note(throughput.workload("1 MiB"), "memserve", times_raw_socket=0.81, times_mooncake_tcp=1.9)
    measured = [bar for bar in throughput.bars(rounds) if bar.value is not None]
    assert [(bar.peer, bar.bar, bar.ok) for bar in measured] == [
        ("raw socket", 0.8, True),
        ("Mooncake TCP", 2.0, False),
    ]


def test_shared_memory_is_judged_against_our_streams():
    rounds, name = Rounds(), throughput.workload("1 MiB")
    figures = {throughput.TIMES_STREAM: 1.6, throughput.CPU_OF_STREAM: 0.7}
    rounds.note(name, throughput.SHARED, **figures)
    measured = [bar for bar in throughput.bars(rounds) if bar.value is not None]
    assert [(bar.peer, bar.bar, bar.ok) for bar in measured] == [
        ("memserve", 1.5, True),
        ("memserve", 0.6, False),
    ]


def test_parts_are_judged_by_the_ratio_to_one_source_of_the_round():
    rounds = Rounds()
    for ratio in (2.4, 2.6, 2.9):
        rounds.note(parts.WORKLOAD, parts.THREE, times_one_source=ratio)
    assert values(parts, rounds) == [(2.6, True)]


def test_modes_are_judged_where_aggregation_saves_least():
    rounds = Rounds()
    for tokens, few in ((512, 100.0), (1024, 125.0)):
        rounds.note(modes.workload(tokens), "by-request", messages=1200.0, seconds=2.0)
        rounds.note(modes.workload(tokens), "aggregated", messages=few, seconds=1.0)
    assert values(modes, rounds) == [(9.6, False)]


def test_the_figure_is_drawn_from_medians():
    rounds = Rounds()
    for tokens in modes.LENGTHS:
        for arm in modes.ARMS:
            rounds.note(modes.workload(tokens), arm.name, messages=tokens * 5.0, seconds=tokens / 1e3)
    chart = modes.figure(rounds, "a <machine>")
    assert "a <machine>" in chart.title
    assert [panel.y_label for panel in chart.panels] == ["messages", "time to send the KV (s)"]
    for panel in chart.panels:
        assert list(panel.curves) == [arm.name for arm in modes.ARMS]
        assert [point.x for point in panel.curves["aggregated"]] == list(modes.LENGTHS)


def test_arms_take_turns_in_other_orders():
    orders = MeasurementPlan(4, Path(), None).turns("part", ["a", "b", "c"])
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]


def test_scattered_blocks_are_all_blocks():
    pages = scattered(20, 8, seed=1)
    assert sorted(pages[:8]) == sorted(pages[8:16]) == list(range(8))
    assert (np.diff(pages[:8]) != 1).any()


def test_half_of_the_books_is_free_after_each_round_of_exchanges():
    made, held = allocation.half_full(4000, 100)
    before = list(held)
    assert made.free_blocks == 2000
    assert allocation.seconds_a_block(made, held, 100) > 0
    assert made.free_blocks == 2000
    assert not any(batch in before for batch in list(held)[:4])


def test_an_end_of_the_index_finds_what_was_built_and_nothing_else():
    end = IndexEnd("memserve")
    end.build(sequences=3, node_tokens=512)
    assert len(end.match([0, 2])) == 2
    assert len(end.insert([7, 8], node_tokens=512)) == 2
    assert len(end.match([7])) == 1
    with pytest.raises(RuntimeError, match="matched 0 tokens"):
        end.match([9])
    assert len(end.insert_in_place([9])) == 1
    assert len(end.match([9])) == 1


def test_a_process_that_fails_is_an_error_with_the_cause(tmp_path):
    with Far("socket", "raw", tmp_path, block_bytes=64, blocks=4) as end:
        with pytest.raises(FarError, match=r"raw: .*nothing_like_it"):
            end.ask("nothing_like_it")
        assert end.ask("holds", stamp=0) is True
    with (
        Far("nothing", "lost", tmp_path) as end,
        pytest.raises(FarError, match=r"(?s)lost has died.*KeyError"),
    ):
        end.ask("holds", stamp=0)


def test_a_process_that_does_not_answer_in_time_answers_nothing_more(tmp_path):
    with Far("socket", "raw", tmp_path, block_bytes=64, blocks=4) as end:
        end.ask("listen")
        with pytest.raises(FarError, match=r"did not answer within 0.2 s"):
            end.ask("receive", 0.2, blocks=1)
        with pytest.raises(FarError, match="has died"):
            end.ask("holds", stamp=0)
    assert not psutil.pid_exists(end.pid)


def test_a_peer_that_cannot_be_had_is_named_and_the_others_are_measured(small, forked_ends, tmp_path):
    rounds = Rounds()
    (tmp_path / "peers").mkdir()
    skipped = throughput.measure_size(
        rounds, MeasurementPlan(1, tmp_path, StockPeers(tmp_path / "peers")), "64 KiB"
    )
    assert len(skipped) == 1
    assert "Mooncake TCP, blocks of 64 KiB" in skipped[0]
    assert "No module named 'mooncake'" in skipped[0]
    assert rounds.median(throughput.workload("64 KiB"), "memserve", "times_raw_socket") > 0
    assert rounds.median(throughput.workload("64 KiB"), "memserve", "times_mooncake_tcp") is None
    for figure in (throughput.TIMES_STREAM, throughput.CPU_OF_STREAM):
        assert rounds.median(throughput.workload("64 KiB"), throughput.SHARED, figure) > 0


def test_a_group_of_two_ranks_carries_blocks(small, forked_ends, tmp_path):
    rounds = Rounds()
    skipped = throughput.measure_size(rounds, MeasurementPlan(1, tmp_path, None), "64 KiB")
    assert not skipped
    assert rounds.median(throughput.workload("64 KiB"), "torch.distributed, gloo", "gb_per_s") > 0


def test_a_torch_without_groups_of_ranks_says_so(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with pytest.raises(dist_end.DistributedError, match="without gloo"):
        dist_end.DistributedEnd(64, 4)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(dist_end.DistributedError, match=r"without torch\.distributed"):
        dist_end.DistributedEnd(64, 4)


def test_a_prefix_is_measured_from_one_source_and_from_three(monkeypatch, forked_ends, tmp_path):
    monkeypatch.setattr(parts, "BLOCKS", 6)
    monkeypatch.setattr(parts, "ARENA_BLOCKS", 12)
    rounds = Rounds()
    assert parts.measure(rounds, MeasurementPlan(2, tmp_path, None)) == []
    for arm in parts.ARMS:
        assert rounds.median(parts.WORKLOAD, arm, "seconds") > 0
    assert rounds.median(parts.WORKLOAD, parts.THREE, "times_one_source") > 0


def test_bytes_that_did_not_land_are_no_figure(small):
    class Lossy:
        name = "lossy"

        def fill(self, stamp):
            pass

        def seconds(self, blocks):
            return 1.0

        def cpu_seconds(self):
            return None

        def holds(self, stamp):
            return False

    with pytest.raises(FarError, match="lossy: not all bytes have landed"):
        throughput.one_transfer(Lossy(), 1 << 16, 1)


def test_a_mode_is_measured_by_messages_that_landed(forked_ends, tmp_path):
    shape = throughput.layout(64 << 10)
    with (
        Far("channel", "sender", tmp_path, layout=shape, blocks=4, paged=True) as sender,
        Far("channel", "receiver", tmp_path, layout=shape, blocks=4) as receiver,
    ):
        endpoint, counts = receiver.ask("listen"), {}
        for stamp, arm in enumerate(modes.ARMS, 1):
            sender.ask("fill", stamp=stamp)
            (ticket,) = receiver.ask("expect", blocks=4)
            how = {"mode": arm.mode, "store": arm.store}
            sent = sender.ask("send", endpoint=endpoint, ticket=ticket, blocks=4, **how)
            assert receiver.ask("holds", stamp=stamp)
            counts[arm.name] = sent["messages"]
    assert counts == {"by-layer": 32, "by-request": 128, "aggregated": 1, "aggregated, gathered": 1}


def test_a_plot_needs_the_part_that_it_draws(bench_mempool, capsys):
    with pytest.raises(SystemExit):
        bench_mempool.parsed(["--plot", "x.svg", "--only", "allocation"])
    with pytest.raises(SystemExit):
        bench_mempool.parsed(["--plot", "x.pdf"])
    assert "modes" in capsys.readouterr().err


def test_without_its_peer_it_says_so_and_measures_nothing(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    command = [sys.executable, str(tmp_path / "scripts" / SCRIPT.name), "--json"]
    env = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "scripts/setup_peers.sh" in done.stderr


def test_json_comes_last(tmp_path):
    command = [sys.executable, str(SCRIPT), "--only", "allocation", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report) == {"machine", "results", "bars", "skipped"}
    assert "index: --only" in report["skipped"]
    assert report["results"][allocation.WORKLOAD]["memserve"]["ns_a_block"]["median"] > 0


@pytest.fixture
def started(torch_python, tmp_path):
    """started(flag..., processes=): the benchmark, and its processes."""

    def start(*flags, processes):
        command = [sys.executable, FORKING, "--log-dir", tmp_path, *flags]
        bench = torch_python.popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        children = functools.partial(psutil.Process(bench.pid).children, recursive=True)
        until(lambda: len(children()) >= processes, "its processes run")
        return bench, children()

    return start


def require_end(bench, children, code):
    assert bench.wait(30) == code
    bench.stderr.close()
    until(lambda: not any(child.is_running() for child in children), "its processes end")


def test_ctrl_c_amid_transfers_leaves_no_process(started):
    bench, children = started("--only", "fairness", processes=3)
    assert "round 1" in bench.stderr.readline()
    os.killpg(bench.pid, signal.SIGINT)  # as a terminal does it
    require_end(bench, children, 130)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_it(started, number, code):
    bench, children = started("--only", "throughput", "--without-peer", processes=4)
    bench.send_signal(number)
    require_end(bench, children, code)
