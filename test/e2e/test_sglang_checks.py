"""The checks that SGLang ships for its servers, and its own load generator, against the router."""

import json
import os
import random
import subprocess
import sys
import unittest
import urllib.request

import pytest
from sglang.test.kits.abort_timeout_kit import AbortAllMixin
from sglang.test.kits.basic_api_contract_kit import BasicAPIContractMixin
from sglang.test.kits.cache_hit_kit import run_multiturn_cache_hit_test
from sglang.test.kits.pd_parity_kit import PDLogprobParityMixin

from sglang_memserve.model import resolve_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


class TestKits(AbortAllMixin, BasicAPIContractMixin, unittest.TestCase):
    # SGLang refuses what cannot fit the context, of 8,192 tokens here. Decode sets 512 tokens of its pool
    # aside for each request that it takes in, and all are to decode when they are aborted.
    abort_all_num_requests = 16
    abort_all_max_new_tokens = 4000
    abort_all_sleep = 6

    @pytest.fixture(autouse=True)
    def _cluster(self, one_p_one_d):
        self.base_url, self.process = one_p_one_d.url, one_p_one_d.popen


class TestParityKit(PDLogprobParityMixin, unittest.TestCase):
    parity_prompts = ([1] + [100 + i % 1000 for i in range(256)], [1] + [2000 + i % 700 for i in range(800)])
    parity_cached_prefix_min_prompt_tokens = 16

    @pytest.fixture(autouse=True)
    def _cluster(self, one_p_one_d, from_stock):
        with urllib.request.urlopen(f"{one_p_one_d.url}/workers") as response:
            urls = {worker["role"]: worker["url"] for worker in json.load(response)["workers"]}
        self.lb_url, self.prefill_url, self.decode_url = one_p_one_d.url, urls["prefill"], urls["decode"]
        self.process_lb = self.process_prefill = self.process_decode = one_p_one_d.popen
        self._ask_stock = from_stock

    def launch_all(self):
        """They run already."""

    def _collect_references(self):
        def ask(url):
            return [self._generate(base_url=url, input_ids=prompt) for prompt in self.parity_prompts]

        return self._ask_stock("kit: parity", ask)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """A file in ShareGPT's form, of random words: the datasets that SGLang would download are not here."""
    words = ["river", "stone", "light", "under", "seven", "paper", "green", "often", "window", "morning"]
    draw = random.Random(7)
    talks = [
        {"conversations": [{"value": " ".join(draw.choices(words, k=60))} for _ in range(2)]}
        for _ in range(40)
    ]
    path = tmp_path_factory.mktemp("data") / "conversations.json"
    path.write_text(json.dumps(talks))
    return str(path)


def test_the_cache_hit_kit(one_p_one_d, conversations):
    run_multiturn_cache_hit_test(
        one_p_one_d.url,
        resolve_model(None),
        num_clients=4,
        request_length=96,
        output_length=16,
        dataset_path=conversations,
    )


SHARED_PREFIX = (
    *("--dataset-name", "generated-shared-prefix", "--gsp-num-groups", "2", "--gsp-prompts-per-group", "6"),
    *("--gsp-system-prompt-len", "128", "--gsp-question-len", "32", "--gsp-output-len", "8"),
)
RANDOM_IDS = (
    *("--dataset-name", "random-ids", "--num-prompts", "12", "--random-input-len", "96"),
    *("--random-output-len", "8", "--tokenize-prompt"),
)


@pytest.mark.parametrize("dataset", [SHARED_PREFIX, RANDOM_IDS], ids=lambda flags: flags[1])
def test_bench_serving_loses_no_request(one_p_one_d, tmp_path, dataset):
    report = tmp_path / "report.jsonl"
    command = [sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang", *dataset]
    command += ["--base-url", one_p_one_d.url, "--model", resolve_model(None), "--max-concurrency", "6"]
    command += ["--output-file", str(report), "--disable-tqdm"]
    # It caches the prompts that it has made below the home folder.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads(report.read_text())["completed"] == 12
