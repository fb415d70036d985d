"""Servers that are not split take part in the MemPool: DRAM, fetches among them, and SGLang's Engine."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PAGE = 16
FLAGS = ("--max-total-tokens", "4096", "--memserve-dram", "384MiB", "--enable-metrics")


@pytest.fixture(scope="module")
def pair(cluster_of):
    """Two colocated instances, with pools that five prompts of a thousand tokens do not fit into."""
    with cluster_of.used("--colocated", "2", flags=FLAGS) as cluster:
        yield [Instance(worker["url"]) for worker in cluster.workers("colocated")]


class Instance:
    def __init__(self, url):
        self.url = url

    def counters(self):
        with urllib.request.urlopen(f"{self.url}/server_info", timeout=60) as response:
            return json.load(response)["internal_states"][0]["memserve"]

    def grown(self, act):
        """What `act()` gave, and by how much the counters have grown once its request has ended."""
        before = self.counters()
        answer = act()
        wanted = before.get("prompt_tokens", 0) + answer["meta_info"]["prompt_tokens"]
        deadline = time.monotonic() + 20
        while (after := self.counters())["prompt_tokens"] < wanted:
            assert time.monotonic() < deadline, after
            time.sleep(0.1)
        sums = {name: value for name, value in after.items() if isinstance(value, int)}
        return answer, {name: value - before.get(name, 0) for name, value in sums.items()}


@pytest.fixture
def ask(post):
    def ask(instance, ids, **fields):
        sampling = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
        body = {"input_ids": ids, "sampling_params": sampling, **fields}
        status, answer = post(instance.url, "/generate", body)
        assert status == 200, answer
        return answer

    return ask


def prompt(first):
    return list(range(first, first + 1000))


def test_kv_that_was_evicted_comes_back_from_dram(pair, ask):
    instance = pair[0]
    once = ask(instance, prompt(1000))["output_ids"]
    for other in range(5):
        ask(instance, prompt(3000 + 1000 * other))
    again, grown = instance.grown(lambda: ask(instance, prompt(1000)))
    assert again["output_ids"] == once
    assert grown["prompt_tokens_from_dram"] >= 900
    assert grown["prompt_tokens_computed"] <= 2 * PAGE


def test_one_fetches_from_the_other_what_a_hint_names(pair, ask, fetch_from):
    instance, other = pair
    once = ask(instance, prompt(12_000))["output_ids"]
    hint = fetch_from(instance.counters()["instance"])
    deadline = time.monotonic() + 20
    while instance.counters()["dram_blocks_in_use"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    answer, grown = other.grown(lambda: ask(other, prompt(12_000), **hint))
    assert answer["output_ids"] == once
    assert grown["prompt_tokens_fetched"] >= 900
    assert grown["prompt_tokens_computed"] <= 2 * PAGE
    assert other.counters()["open_fetches"] == 0


def test_a_source_that_is_not_there_costs_a_request_nothing(pair, ask, fetch_from):
    began = time.monotonic()
    _, grown = pair[1].grown(lambda: ask(pair[1], prompt(15_000), **fetch_from("127.0.0.1:1", 60_000)))
    assert time.monotonic() - began < 40
    assert grown["fetches_failed_PeerDied"] == 1
    assert grown["prompt_tokens_computed"] == 1000


def test_what_is_counted_is_at_sglangs_metrics(pair, ask):
    ask(pair[0], prompt(20_000))
    wanted = pair[0].counters()["prompt_tokens_computed"]
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(f"{pair[0].url}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith("memserve:prompt_tokens_computed_total{")]
        if found and float(found[0].rpartition(" ")[2]) == wanted:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert 'engine_type="unified"' in found[0]


ENGINE = """
import sglang, sys
from sglang_memserve.model import resolve_model

def main():
    engine = sglang.Engine(
        model_path=resolve_model(None), radix_cache_backend="memserve", page_size=16, max_total_tokens=4096,
        device="cpu", attention_backend="torch_native", disable_cuda_graph=True,
        log_level="warning",
    )
    def ask(first):
        ids = list(range(first, first + 1000))
        return engine.generate(input_ids=ids, sampling_params={"temperature": 0, "max_new_tokens": 8})
    once = ask(1000)
    for other in range(5):
        ask(3000 + 1000 * other)
    again = ask(1000)
    assert again["output_ids"] == once["output_ids"], (once, again)
    told = engine.get_server_info()["internal_states"][0]["memserve"]
    assert told["prompt_tokens_from_dram"] >= 900, told
    engine.shutdown()
    print("came back from DRAM")

if __name__ == "__main__":
    main()
"""


def test_sglangs_offline_engine_keeps_kv_in_dram_too(tmp_path):
    script = tmp_path / "offline.py"
    script.write_text(ENGINE)
    env = os.environ | {"HF_HUB_OFFLINE": "1", "MEMSERVE_DRAM": "384MiB"}
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "came back from DRAM" in ran.stdout
