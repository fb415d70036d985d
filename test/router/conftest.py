"""A router on real sockets, before mock instances: `start` and `pd`."""

from pathlib import Path

import pytest
from manual_clock import Clock
from router_cluster import pd, start

from router.forwarding import aborts

__all__ = ["pd", "start"]


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(20))


@pytest.fixture(autouse=True)
def real_abort_delay(monkeypatch):
    """Aborts wait for a moment: a mock knows a request at once. Returns how long they wait for SGLang."""
    delay = aborts._EARLY_SECS
    monkeypatch.setattr(aborts, "_EARLY_SECS", 0.02)
    return delay


@pytest.fixture
def clock():
    return Clock()
