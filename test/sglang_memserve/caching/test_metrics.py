"""The counters at `/metrics`, as one process writes them and another collects them."""

import os
import subprocess
import sys

import pytest

LABELS = {"engine_type": "prefill", "tp_rank": 0}

WRITES = """
import sglang_memserve.caching.metrics as metrics
import sys
assert "prometheus_client" not in sys.modules

numbers = {}
published = metrics.MetricsPublisher(lambda: numbers, {"engine_type": "prefill", "tp_rank": 0})

def publish(**now):
    numbers.clear()
    numbers.update(now)
    published._next = 0.0
    published.publish()
"""
COLLECTS = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


@pytest.fixture
def collected(tmp_path):
    """collected(calls): the lines of the page after a process has made these calls."""

    def run(calls):
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", WRITES + calls], env=env, check=True, timeout=60)
        page = subprocess.run(
            [sys.executable, "-c", COLLECTS], env=env, check=True, timeout=60, capture_output=True, text=True
        )
        return [line for line in page.stdout.splitlines() if line and not line.startswith("#")]

    return run


def test_sums_grow_and_gauges_rise_and_fall(collected):
    lines = collected(
        "publish(prompt_tokens=5, dram_blocks=7, open_fetches=2, swap_in_seconds=0.5)\n"
        "publish(prompt_tokens=9, dram_blocks=4, open_fetches=0, swap_in_seconds=0.75)\n"
    )
    labels = '{engine_type="prefill",tp_rank="0"}'
    assert sorted(lines) == [
        f"memserve:dram_blocks{labels} 4.0",
        f"memserve:open_fetches{labels} 0.0",
        f"memserve:prompt_tokens_total{labels} 9.0",
        f"memserve:swap_in_seconds_total{labels} 0.75",
    ]


def test_sums_by_source_are_labelled_and_texts_are_left_out(collected):
    lines = collected("publish(fetched_tokens_from={'127.0.0.1:1': 3, 'b': 4}, instance='127.0.0.1:2')\n")
    assert sorted(lines) == [
        'memserve:fetched_tokens_from_total{engine_type="prefill",source="127.0.0.1:1",tp_rank="0"} 3.0',
        'memserve:fetched_tokens_from_total{engine_type="prefill",source="b",tp_rank="0"} 4.0',
    ]


def test_metrics_are_published_once_a_second_until_that_fails(monkeypatch):
    from sglang_memserve.caching import metrics

    now, asked = [100.0], []

    def read():
        asked.append(now[0])
        if now[0] > 102:
            raise OSError("disk full")
        return {"prompt_tokens": len(asked)}

    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    published = metrics.MetricsPublisher(read, LABELS)
    for now[0] in (100.0, 100.5, 101.25, 101.5, 102.5, 200.0):
        published.publish()
    assert asked == [100.0, 101.25, 102.5]
