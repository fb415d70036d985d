from pathlib import Path

from benchmark import data

CHECKOUT = Path(__file__).resolve().parents[2]


def test_data_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    assert (data.tables(), data.traces()) == (tmp_path / "perf", tmp_path / "traces")


def test_data_lies_beside_the_checkout_by_default(monkeypatch):
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    assert data.folder() == CHECKOUT.parent / "shared"
