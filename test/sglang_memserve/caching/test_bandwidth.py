"""What an instance sends may be bounded."""

import sys
from types import SimpleNamespace

import pytest

from mempool.errors import MemPoolError
from mempool.security.access import LOOPBACK_ONLY
from sglang_memserve.transfer.prefill import PrefillSide


@pytest.fixture
def unbounded(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")


def test_no_agent_starts_where_nothing_can_keep_the_bound(unbounded, make_instance):
    make_instance("free", "colocated")
    with pytest.raises(MemPoolError, match="cannot be bounded to 10000000 bytes a second: win32"):
        make_instance("bound", "colocated", max_bandwidth=10_000_000)


def test_no_prefill_side_starts_where_nothing_can_keep_the_bound(unbounded, make_instance):
    buffers = make_instance("free", "prefill").buffers()
    with pytest.raises(MemPoolError, match="cannot be bounded to 10000000 bytes a second: win32"):
        PrefillSide(SimpleNamespace(access=LOOPBACK_ONLY), buffers, max_bandwidth=10_000_000)
