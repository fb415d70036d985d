"""What bench_caching lets meet, when it calls a bar met, and what it refuses to call a point."""

import contextlib
import json
from collections import Counter
from pathlib import Path

import pytest

from benchmark.caching import crossover, parts, sources
from benchmark.caching.arguments import parsed
from benchmark.caching.bars import bars
from benchmark.caching.benchmark import options_of
from benchmark.caching.duels import Duel, Duels
from benchmark.caching.outcome import CachingOutcome
from benchmark.caching.pair import Served
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.serving.arms import ARMS, BenchTarget
from sglang_memserve.bench.serving.options import BenchOptions
from sglang_memserve.bench.serving.replay import ReplayResult
from sglang_memserve.bench.serving.rounds import Comparison, Lap
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn
from sglang_memserve.cluster.errors import ClusterError

PEERS = Path(".peers")


def duel(partner, ours, theirs, part="sharegpt", failed=0.0):
    """Rounds of (TTFT, TPOT, JCT) of either."""

    def lap(arm, number, values):
        names = ("ttft_avg_ms", "tpot_avg_ms", "jct_avg_ms")
        counts = {"failed_percent": failed, "unsent_percent": 0.0, "short_answers": 0}
        figures = dict(zip(names, values, strict=True)) | counts
        return Lap(number, "w", arm, ReplayResult([], 1, 1.0), figures)

    laps = [lap(parts.PIVOT, n, values) for n, values in enumerate(ours, 1)]
    return Duel(part, "w", partner, [*laps, *(lap(partner, n, values) for n, values in enumerate(theirs, 1))])


def judged(*duels, chosen=("sharegpt",)):
    return [(bar.peer, bar.value, bar.ok) for bar in bars(chosen, duels)]


BASIC = duel(parts.BASIC, [(40, 1, 1), (30, 1, 1), (60, 1, 1)], [(100, 1, 1)] * 3)
MODE_2 = duel(parts.MODE_2, [(50, 44, 1), (70, 42, 1)], [(100, 40, 1), (80, 40, 1)])
STOCK = duel(parts.PEER, [(60, 1, 99)], [(100, 1, 100)])


def test_bars_are_of_the_ratios_of_one_rounds_pair():
    assert judged(BASIC, MODE_2, STOCK) == [
        (parts.BASIC, 0.4, True),
        (parts.MODE_2, 70 / 80, True),
        (parts.MODE_2, pytest.approx(1.075), True),
        (parts.PEER, 0.6, True),
        (parts.PEER, 0.99, True),
    ]


def test_rounds_are_paired_by_their_number_and_not_by_their_order():
    mixed = duel(parts.BASIC, [(10, 1, 1), (90, 1, 1)], [(100, 1, 1), (900, 1, 1)])
    assert Duel("p", "w", parts.BASIC, mixed.laps[::-1]).ratios("ttft_avg_ms") == [0.1, 0.1]
    assert Duel("p", "w", parts.BASIC, mixed.laps[1:]).ratios("ttft_avg_ms") == [0.1]


def test_a_lower_median_within_the_spread_does_not_meet_the_bar():
    overlapping = duel(parts.MODE_2, [(50, 40, 1), (81, 40, 1)], [(100, 40, 1), (80, 40, 1)])
    assert judged(overlapping)[1] == (parts.MODE_2, 81 / 80, False)


def test_each_bar_can_be_missed():
    slow = [
        duel(parts.BASIC, [(41, 1, 1)], [(100, 1, 1)]),
        duel(parts.MODE_2, [(100, 45, 1)], [(99, 40, 1)]),
        duel(parts.PEER, [(61, 1, 101)], [(100, 1, 100)]),
    ]
    assert not any(ok for _, _, ok in judged(*slow))


def test_no_bar_is_met_by_what_was_not_measured_or_by_a_run_with_failures():
    sharing = ("sharegpt", "loogle", "react")
    assert judged(chosen=sharing) == [
        *[(parts.BASIC, None, False)] * 3,
        *[(parts.MODE_2, None, False)] * 2,
        *[(parts.PEER, None, False)] * 2,
    ]
    failing = duel(parts.BASIC, [(1, 1, 1)], [(100, 1, 1)], failed=2.0)
    assert judged(failing)[0] == (parts.BASIC, None, False)


def test_parts_that_were_not_chosen_have_no_bars():
    assert judged(chosen=("transfer", "crossover")) == []
    assert len(judged(chosen=("loogle",))) == 1


def asked(*arguments):
    return parsed(arguments, "about", PEERS)


def test_the_default_is_the_chats_against_the_milestones_and_the_peer():
    arguments = asked()
    assert arguments.parts == ("sharegpt",)
    assert arguments.against("sharegpt") == (parts.BASIC, parts.MODE_2, parts.PEER)
    assert arguments.skipped == []


def test_full_has_all_parts_and_more_systems():
    full = asked("--full", "--without-peer")
    assert full.parts == ("sharegpt", "loogle", "react", "transfer", "crossover")
    assert full.against("react") == (parts.BASIC, parts.MODE_2, parts.MODE_1, parts.COLOCATED)
    assert full.skipped == ["stock-pd-radix: --without-peer"]


@pytest.mark.parametrize("flag", ["--part", "--only"])
def test_a_part_can_be_measured_alone(flag):
    arguments = asked(flag, "crossover", flag, "transfer", "--lengths", "512")
    assert (arguments.parts, arguments.lengths) == (("crossover", "transfer"), (512,))
    assert arguments.against("crossover") == ()
    assert "sharegpt: --part" in arguments.skipped


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--part", "chats"], "chats"),
        (["--lengths", "500"], "--lengths 500: give multiples of 16"),
        (["--lengths", "16000"], "--lengths 16000"),
        (["--rounds", "0"], "--rounds 0"),
        (["--sessions", "0"], "--sessions 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(arguments, what, capsys):
    with pytest.raises(SystemExit):
        asked(*arguments)
    assert what in capsys.readouterr().err


def test_every_partner_is_an_arm_of_memserve_bench():
    named = {name for part in parts.PARTS.values() for name in (*part.partners, *part.more)}
    assert {parts.PIVOT, *named} <= set(ARMS)


def test_a_part_has_its_own_load_but_for_what_was_asked_for():
    own = options_of("transfer", asked("--threads", "2"), gpus=False)
    part = parts.PARTS["transfer"]
    assert (own.workload, own.threads, own.rates) == ("no-sharing", 2, part.rates)
    assert (own.sessions, own.seed) == (part.load.sessions, part.seed)
    few = options_of("sharegpt", asked("--sessions", "2", "--seed", "0"), gpus=False)
    assert (few.sessions, few.seed, few.rates) == (2, 0, (parts.PARTS["sharegpt"].load.rate,))
    assert options_of("sharegpt", asked(), gpus=True).sessions is None


class WatchedDuels(Duels):
    raised: list[list[str]]


@pytest.fixture
def arena(monkeypatch):
    """Duels whose systems are names alone. `raised`: what was started, in order."""
    raised, up = [], []

    @contextlib.asynccontextmanager
    async def start_arms(arms):
        names = [arm.name for arm in arms]
        raised.append(names)
        up.extend(names)
        yield [BenchTarget(name, name) for name in names]
        for name in names:
            up.remove(name)

    async def lap(self, number, label, target):
        assert target.name in up
        assert len(up) <= 2
        figures = {"failed_percent": 0.0, "unsent_percent": 0.0, "ttft_avg_ms": 1.0}
        self.laps.append(Lap(number, label, target.name, ReplayResult([], 1, 1.0), figures))

    monkeypatch.setattr(Comparison, "_lap", lap)
    duels = WatchedDuels(None, start_arms, [], [])
    duels.raised = raised
    return duels


async def test_all_caching_stays_up_and_meets_the_others_in_rounds(arena):
    options = BenchOptions(arms=("a",), rounds=2)
    await arena.fight("sharegpt", [parts.BASIC, parts.PEER], {"low": None, "high": None}, options, True)
    assert arena.raised == [[parts.PIVOT], [parts.BASIC], [parts.PEER]]
    met = [(duel.partner, duel.label, len(duel.laps), len(duel.ratios("ttft_avg_ms"))) for duel in arena.done]
    names = [(parts.BASIC, "low"), (parts.BASIC, "high"), (parts.PEER, "low"), (parts.PEER, "high")]
    assert met == [(*name, 4, 2) for name in names]


async def test_without_room_for_two_each_is_started_for_its_turn(arena):
    await arena.fight("sharegpt", [parts.BASIC], {"w": None}, BenchOptions(arms=("a",), rounds=2), False)
    assert sorted(arena.raised) == sorted([[parts.PIVOT], [parts.BASIC]] * 2)


async def test_what_was_measured_before_a_system_failed_is_kept(arena):
    started = arena.start_arms

    @contextlib.asynccontextmanager
    async def start_arms(arms):
        if arms == [ARMS[parts.PEER]]:
            raise ClusterError("it does not come up")
        async with started(arms) as targets:
            yield targets

    arena.start_arms = start_arms
    with pytest.raises(ClusterError):
        await arena.fight(
            "sharegpt", [parts.BASIC, parts.PEER], {"w": None}, BenchOptions(arms=("a",), rounds=1), True
        )
    assert [duel.partner for duel in arena.done] == [parts.BASIC]


def grown(hbm=0, dram=0, fetched=0, computed=0):
    names = ("from_hbm", "from_dram", "fetched", "computed")
    counts = dict(zip(names, (hbm, dram, fetched, computed), strict=True))
    return Served(0.1, Counter({f"prompt_tokens_{name}": count for name, count in counts.items()}))


@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        (sources.HBM, grown(hbm=480, computed=32), grown(dram=480, computed=32)),
        (sources.DRAM, grown(dram=480, computed=32), grown(hbm=480, computed=32)),
        (sources.REMOTE, grown(fetched=480, computed=32), grown(fetched=464, computed=48)),
        (sources.RECOMPUTE, grown(computed=512), grown(hbm=16, computed=496)),
    ],
)
def test_a_request_that_was_not_served_as_meant_is_no_point(source, right, wrong):
    cached = 0 if source is sources.RECOMPUTE else 480
    source.check(512, cached, right)
    with pytest.raises(ClusterError, match=f"{source.name}: .* 512 tokens, .*was not served as meant"):
        source.check(512, cached, wrong)


def test_shares_are_in_whole_pages():
    cached = {page: [crossover.cached_tokens(512, n, page) for n in crossover.PERCENTS] for page in (16, 64)}
    assert cached == {16: [0, 128, 256, 384, 480], 64: [0, 128, 256, 384, 448]}


def test_the_figure_has_a_line_for_each_source_from_nothing_cached_on():
    rounds = Rounds()
    for percent in crossover.PERCENTS:
        for source in crossover.sources_at(percent):
            ttft = {crossover.figure_name(percent): 500.0 - percent}
            rounds.note(crossover.workload(512), source.name, **ttft)
    chart = crossover.figure(rounds.results(), "a <machine>")
    (panel,) = chart.panels
    assert [len(curve) for curve in panel.curves.values()] == [2, 5, 5, 5]
    assert "a <machine>" in chart.title


def test_a_crossover_that_was_not_measured_is_not_drawn():
    with pytest.raises(ValueError, match="was not measured"):
        crossover.figure({}, "here")


def test_a_report_has_all_rounds_the_ratios_and_the_points(tmp_path, capsys):
    arguments = asked("--json", "--plot", str(tmp_path), "--part", "sharegpt", "--part", "crossover")
    chats = Workload("w", (WorkloadSession("s", 0.0, (WorkloadTurn((1, 2, 3), 2),)),))
    outcome = CachingOutcome(
        arguments, {"cpu": "c", "cores": 2}, [BASIC, MODE_2], workloads={"sharegpt": {"w": chats}}
    )
    outcome.crossover.note("512 tokens", "recompute", ttft_ms_0_percent_cached=500.0)
    outcome.publish(ended=ClusterError("stock-pd-radix does not come up"))
    *_, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report["results"]["w"][parts.PIVOT]["ttft_avg_ms"] == {"median": 50, "low": 30, "high": 70}
    assert report["results"]["w: ratios"][f"over {parts.BASIC}"]["ttft_avg_ms"]["high"] == 0.6
    assert report["results"]["512 tokens"]["recompute"]["ttft_ms_0_percent_cached"]["median"] == 500
    assert [bar["ok"] for bar in report["bars"]] == [True, True, True, False, False]
    assert "ended early: stock-pd-radix does not come up" in report["skipped"]
    assert "<svg" in (tmp_path / "crossover.svg").read_text()
