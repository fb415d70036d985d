import sys
from functools import partial

import pytest

from benchmark.gpu.plan import GpuStep

# Leaves an orphan in a session of its own, and minds no signal that can be minded.
HANGS = """
trap '' INT TERM HUP
setsid sh -c 'trap "" INT TERM HUP; echo $$ >>"$0"; sleep 1000' "$1" &
sh -c 'sleep 1000 & echo $! >>"$0"' "$1"
echo $$ >>"$1"
echo hangs
sleep 1000
"""
STARTED = 3


@pytest.fixture
def step():
    """step(code): Python; step(name=..., limit_s=..., measures=...)."""

    def make(code, name="a step", **more):
        argv = (sys.executable, "-ISE", "-c", code)
        return GpuStep(name, "what it does", argv, **{"limit_s": 60.0, **more})

    return make


@pytest.fixture
def hanging(tmp_path):
    """A step that starts processes, and does not end; and the pids of all of them, once they are there."""
    pids = tmp_path / "pids"
    argv = ("bash", "-c", HANGS, "hangs", str(pids))

    def started():
        found = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
        return found if len(found) == STARTED else []

    return partial(GpuStep, "hangs", "does not end", argv), started
