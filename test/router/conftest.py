"""A router on real sockets, before mock instances: `start` and `pd`."""

from pathlib import Path

import pytest
from manual_clock import Clock
from router_cluster import pd, start

__all__ = ["pd", "start"]


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(20))


@pytest.fixture
def clock():
    return Clock()
