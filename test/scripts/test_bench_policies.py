"""What bench_policies asks and of whom, and when it calls a bar met."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmark.policies import contenders
from benchmark.policies.arguments import parsed
from benchmark.policies.bars import bars, duels
from benchmark.policies.contenders import COST_MODEL, LEAST_LOAD, PEER, PROMPT_TREE, SESSION
from benchmark.policies.outcome import PoliciesOutcome
from benchmark.policies.sessions import LOOGLE, duplicated
from sglang_memserve.bench.clusters import Builder, EngineSpec
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving.answer import ReplayRecord, StreamedAnswer
from sglang_memserve.bench.serving.replay import ReplayResult
from sglang_memserve.bench.serving.rounds import Lap
from sglang_memserve.bench.workloads.named import workload
from sglang_memserve.launch_server import value_of

PEERS = Path(".peers")


def asked(*arguments):
    return parsed(arguments, "about", PEERS)


def laps(failed=0.0, **p99s):
    """P99 TTFT of each round, by contender."""
    counts = {"failed_percent": failed, "unsent_percent": 0.0, "short_answers": 0}

    def lap(name, number, value):
        answer = StreamedAnswer(token_times=[value / 1e3], reported_tokens=1)
        run = ReplayResult([ReplayRecord("s", 1, 0.0, 0.0, 1, answer)], 1, 1.0)
        return Lap(number, "w", name, run, {"ttft_p99_ms": value} | counts)

    return [lap(name, n, value) for name, values in p99s.items() for n, value in enumerate(values, 1)]


def judged(names, **measured):
    return [(bar.peer, bar.value, bar.ok) for bar in bars(duels(laps(**measured), names))]


def test_the_session_policy_has_to_be_beaten_by_the_rounds_ratios():
    met = judged((COST_MODEL, SESSION), cost_model=[70, 10, 90], session=[100, 100, 100])
    assert met == [(SESSION, 0.7, True)]
    missed = judged((COST_MODEL, SESSION), cost_model=[71, 10, 90], session=[100, 100, 100])
    assert missed == [(SESSION, 0.71, False)]


@pytest.mark.parametrize(("theirs", "ok"), [([50, 89], False), ([50, 90], True), ([200, 300], True)])
def test_another_is_better_where_all_of_its_rounds_are(theirs, ok):
    ((peer, value, met),) = judged((COST_MODEL, PROMPT_TREE), cost_model=[100, 90], prompt_tree=theirs)
    assert (peer, value, met) == (PROMPT_TREE, pytest.approx(90 / max(theirs)), ok)


def test_a_policy_without_figures_or_with_failures_meets_no_bar():
    names = (COST_MODEL, SESSION, PEER)
    assert judged(names, cost_model=[1, 1]) == [(SESSION, None, False), (PEER, None, False)]
    failing = judged(names, failed=1.0, cost_model=[1], session=[9], **{PEER: [9]})
    assert failing == [(SESSION, None, False), (PEER, None, False)]


def test_the_default_is_the_papers_policies_cost_model_and_peer():
    arguments = asked()
    assert arguments.contenders == (COST_MODEL, SESSION, PROMPT_TREE, LEAST_LOAD, PEER)
    assert (arguments.options.rounds, arguments.skipped) == (3, ())


def test_full_has_all_policies_of_the_router_and_more_rounds():
    from router.policies import POLICIES

    full = asked("--full", "--without-peer")
    assert set(full.contenders) == set(POLICIES)
    assert (full.options.rounds, full.skipped) == (5, ("sglang-router: --without-peer",))
    assert asked("--full", "--rounds", "1").options.rounds == 1


def test_a_policy_can_be_compared_alone():
    arguments = asked("--policy", "random")
    assert arguments.contenders == (COST_MODEL, "random", PEER)
    assert "session: --policy" in arguments.skipped


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--policy", "best"], "best"),
        (["--rounds", "0"], "--rounds 0"),
        (["--documents", "0"], "--documents 0"),
        (["--rate", "0"], "--rate 0"),
        (["--rate", "nan"], "--rate nan"),
        (["--scale", "1.5"], "--scale 1.5"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(arguments, what, capsys):
    with pytest.raises(SystemExit):
        asked(*arguments)
    assert what in capsys.readouterr().err


@pytest.fixture
def documents():
    return workload("loogle", {"sessions": 20, "scale": 0.01, **LOOGLE})


def test_every_session_is_had_by_every_user_under_a_name_of_its_own(documents):
    made = duplicated(documents, 3, rate=2.0, seed=0)
    assert set(Counter(session.turns for session in made.sessions).values()) == {3}
    assert len({session.name for session in made.sessions}) == len(made.sessions) == 60


def test_users_come_at_random_moments(documents):
    made = duplicated(documents, 3, rate=2.0, seed=0)
    arrivals = [session.arrival for session in made.sessions]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(30, rel=0.5)
    order = [session.name for session in made.sessions]
    assert order == [session.name for session in duplicated(documents, 3, rate=9.0, seed=0).sessions]
    assert order != [session.name for session in duplicated(documents, 3, rate=2.0, seed=1).sessions]
    # Drawn from all orders, a third of neighbours' pairs or so has one of the first user's behind another's.
    users = [name[-1] for name in order]
    assert users != sorted(users)


def test_there_are_as_many_requests_a_session_as_in_the_paper():
    many = workload("loogle", {"sessions": 400, "scale": 0.1, **LOOGLE})
    assert sum(len(session.turns) for session in many.sessions) / 400 == pytest.approx(250 / 80, rel=0.1)


class CountingPorts:
    def pick(self):
        return 20000


@pytest.mark.parametrize("name", [*contenders.POLICIES, PEER])
def test_each_contender_is_a_router_before_all_instances(name, tmp_path):
    ports, engine = CountingPorts(), EngineSpec(model="/models/m", attention_backend="torch_native")
    roles = ("prefill", "prefill", "decode")
    instances = [engine.instance(role, ports) for role in roles]
    builder = Builder(engine, ports, tmp_path, session=None)
    system = contenders.target_of(name, builder, instances, StockPeers(PEERS), tmp_path / "profile.json")
    argv = list(system.router.argv)
    assert ("--profile" in argv) == (name == COST_MODEL)
    assert (argv.count("--prefill"), argv.count("--decode")) == (2, 1)
    assert ("sglang_router.launch_router" in argv) == (name == PEER)
    assert value_of(argv, "--policy") == ("cache_aware" if name == PEER else name)


def test_a_report_has_all_rounds_the_ratios_and_the_p99_of_all_requests(tmp_path, capsys, documents):
    arguments = asked("--json", "--plot", str(tmp_path), "--log-dir", str(tmp_path), "--policy", SESSION)
    measured = laps(cost_model=[10, 60], session=[100, 100])
    PoliciesOutcome(arguments, "w", documents, measured, ["ended early: no memory"], {"cpu": "c"}).publish()
    *_, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report["results"]["w"][COST_MODEL]["ttft_p99_ms"] == {"median": 35, "low": 10, "high": 60}
    assert report["results"]["w"][COST_MODEL]["ttft_p99_of_all_rounds_ms"]["median"] == 60
    assert report["results"]["w: ratios"]["over session"]["ttft_p99_ms"]["high"] == 0.6
    assert [bar["ok"] for bar in report["bars"]] == [True, False]
    assert "ended early: no memory" in report["skipped"]
    assert "<svg" in (tmp_path / "policies.svg").read_text()
    assert len((tmp_path / "requests.jsonl").read_bytes().splitlines()) == 4
