"""Rounds: every arm gets the same, in an order that changes, with its caches empty."""

import contextlib
import json

import pytest

from sglang_memserve.bench.serving.apis import RequestSettings
from sglang_memserve.bench.serving.arms import Arm, BenchTarget
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.bench.serving.measure import Slo
from sglang_memserve.bench.serving.rounds import Comparison, ComparisonPlan
from sglang_memserve.cluster.errors import ClusterError


@pytest.fixture
def systems(engines):
    """Mock systems by name; `raised` lists what was up together, in order."""

    class Systems(dict):
        def __init__(self):
            self.raised = []

        async def add(self, *names):
            for name in names:
                self[name] = await engines()

        @contextlib.asynccontextmanager
        async def start_arms(self, arms):
            self.raised.append([arm.name for arm in arms])
            yield [BenchTarget(arm.name, self[arm.name].url) for arm in arms]

    return Systems()


@pytest.fixture
def compare(systems, dialogue):
    """Runs a comparison of all systems and returns it."""

    async def run(workloads=None, **changes):
        workloads = workloads or {"w": dialogue(0.0, 0.02, turns=[dialogue.turn()] * 2)}
        plan = {"rounds": 2, "api": "generate", "together": True, "seed": 0, "between_s": 0.01} | changes
        async with open_session() as session:
            comparison = Comparison(
                ComparisonPlan(workloads, asking=RequestSettings(), slo=Slo(), request_s=5, run_s=20, **plan),
                session,
                systems.start_arms,
            )
            await comparison.run([Arm(name, "", "running") for name in systems])
        return comparison

    return run


async def test_every_arm_gets_the_same_requests_in_every_round(systems, compare, dialogue):
    await systems.add("a", "b")
    loads = {"slow": dialogue(0.0, 0.1), "fast": dialogue(0.0, 0.01)}
    comparison = await compare(loads, rounds=3)
    laps = {(lap.round, lap.workload, lap.arm) for lap in comparison.laps}
    assert laps == {(n, w, arm) for n in (1, 2, 3) for w in loads for arm in ("a", "b")}
    assert systems["a"].bodies == systems["b"].bodies
    assert all(lap.figures["failed_percent"] == 0 for lap in comparison.laps)


async def test_no_arm_is_always_the_first(systems, compare, dialogue):
    await systems.add("a", "b", "c")
    comparison = await compare({"w": dialogue(0.0)}, rounds=6)
    firsts = {lap.arm for number, lap in enumerate(comparison.laps) if number % 3 == 0}
    assert len(firsts) > 1


async def test_caches_are_empty_after_the_warm_up(systems, compare):
    await systems.add("a")
    comparison = await compare()
    # In each round: a short warm-up like the workload's first turn, then its four requests.
    asked = [body["sampling_params"]["max_new_tokens"] for body in systems["a"].bodies]
    assert asked == [4, 3, 3, 3, 3] * 2
    assert systems["a"].calls["/flush_cache"] == 2
    # A router would remember the warm-up's prompt when caches have forgotten it.
    warm_up, first = (systems["a"].bodies[n]["input_ids"] for n in (0, 1))
    assert len(warm_up) == len(first)
    assert warm_up[0] != first[0]
    assert not comparison.notes


async def test_a_cache_that_cannot_be_emptied_is_noted_once(systems, compare):
    await systems.add("a")
    del systems["a"].pages["/flush_cache"]
    comparison = await compare()
    (note,) = comparison.notes
    assert "a's caches were not emptied" in note
    assert "404" in note


async def test_arms_that_do_not_fit_together_are_started_for_their_turn(systems, compare):
    await systems.add("a", "b")
    await compare(together=False, rounds=2)
    assert sorted(systems.raised) == [["a"], ["a"], ["b"], ["b"]]


async def test_an_arm_that_fails_at_once_ends_the_comparison(systems, compare):
    await systems.add("a")
    systems["a"].fails = {0: 503}
    with pytest.raises(ClusterError, match=r"a .* fails its first request: 503"):
        await compare()


async def test_errors_in_a_run_are_counted(systems, compare):
    await systems.add("a")
    systems["a"].fails = {1: 500}
    comparison = await compare(rounds=1)
    assert comparison.laps[0].figures["failed_percent"] == 25
    assert comparison.laps[0].figures["unsent_percent"] == 25


async def test_kv_that_moved_is_the_difference_of_a_run(systems, compare):
    class Counting(dict):
        moved = 1.0

        def get(self, path):
            if path != "/metrics":
                return super().get(path)
            self.moved += 2.0
            return b'# HELP\nsglang:kv_transfer_total_mb_sum{engine_type="prefill"} %.1f\n' % self.moved

    await systems.add("a")
    systems["a"].pages = Counting(systems["a"].pages)
    comparison = await compare(rounds=1)
    assert comparison.laps[0].figures["kv_moved_mb"] == pytest.approx(2 * 1.048576)


async def test_moved_kv_is_read_from_server_info_without_metrics(systems, compare):
    class Counting(dict):
        sent = 0

        def get(self, path):
            if path != "/server_info":
                return super().get(path)
            self.sent += 5_000_000
            states = {"prefill": {"kv_bytes_sent": self.sent}, "decode": {"kv_bytes_received": self.sent}}
            infos = {
                mode: [{"disaggregation_mode": mode, "internal_states": [{"memserve": counters}]}]
                for mode, counters in states.items()
            }
            return json.dumps(infos).encode()

    await systems.add("a")
    systems["a"].pages = Counting(systems["a"].pages)
    comparison = await compare(rounds=1)
    assert comparison.laps[0].figures["kv_moved_mb"] == pytest.approx(5)


async def test_kv_that_went_back_to_prefill_is_what_our_instances_count(systems, compare):
    class Counting(dict):
        sent = 0

        def get(self, path):
            if path != "/server_info":
                return super().get(path)
            self.sent += 3_000_000
            state = {"memserve": {"kv_bytes_sent_from_dram": self.sent, "dram_blocks": 7}}
            return json.dumps({"internal_states": [state]}).encode()

    await systems.add("a")
    systems["a"].pages = Counting(systems["a"].pages)
    comparison = await compare(rounds=1)
    assert comparison.laps[0].figures["kv_written_back_mb"] == pytest.approx(3)


async def test_prefill_is_spared_what_it_did_not_compute_whatever_decode_found(systems, compare):
    """`cached_tokens` of a split is the larger of the two: half of the prompt, says the mock."""

    class Counting(dict):
        asked = 0

        def get(self, path):
            if path != "/server_info":
                return super().get(path)
            self.asked += 100
            here = {"prompt_tokens_from_hbm": self.asked // 10, "prompt_tokens_fetched": self.asked // 10}
            prefill = here | {"prompt_tokens_computed": self.asked * 8 // 10, "kv_bytes_sent_from_dram": 7}
            decode = {"prompt_tokens_from_hbm": self.asked}
            roles = [("prefill", prefill), ("decode", decode)]
            infos = [
                {"disaggregation_mode": mode, "internal_states": [{"memserve": counts}]}
                for mode, counts in roles
            ]
            return json.dumps({"prefill": infos[:1], "decode": infos[1:]}).encode()

    await systems.add("a")
    systems["a"].pages = Counting(systems["a"].pages)
    figures = (await compare(rounds=1)).laps[0].figures
    assert figures["cached_percent"] == pytest.approx(50, abs=2)
    assert figures["prefill_spared_percent"] == pytest.approx(20)
    assert figures["prefill_computed_tokens"] == 80
    assert "kv_written_back_mb" not in figures


async def test_a_system_that_does_not_tell_what_it_moved_has_no_figure_for_it(systems, compare):
    await systems.add("a")
    comparison = await compare(rounds=1)
    assert "kv_moved_mb" not in comparison.laps[0].figures
