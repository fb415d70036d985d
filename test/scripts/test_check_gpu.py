"""The check of a GPU, as far as it runs without one."""

import json

import pytest
import torch

from mempool.paged import PagedBuffers


@pytest.fixture(scope="module")
def check_gpu(load_script):
    return load_script("check_gpu").main


def test_a_dry_run_on_the_cpu_meets_its_bars_and_says_what_it_skipped(check_gpu, capsys):
    assert check_gpu(["--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {bar["name"] for bar in found["bars"]} >= {
        "blocks are what plain indexing has",
        "a page is overwritten after the computation before",
        "blocks arrive over TCP",
    }
    assert all(bar["ok"] for bar in found["bars"])
    assert found["results"]["wrong_layouts"] == []
    assert found["machine"]["device"] == "cpu: a dry run"
    assert "no CUDA" in found["skipped"][0]


def test_blocks_of_wrong_bytes_are_found(check_gpu, capsys, monkeypatch):
    def shifted(self, pages, out, planes=None, gather=PagedBuffers.gather):
        gather(self, (pages + 1) % self.num_blocks, out, planes)

    monkeypatch.setattr(PagedBuffers, "gather", shifted)
    assert check_gpu(["--device", "cpu", "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["results"]["wrong_layouts"]) == 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(check_gpu, capsys):
    assert check_gpu([]) == 2
    assert "--device cpu" in capsys.readouterr().err
