"""What a run shows on its way."""

import io

from sglang_memserve.bench.serving.answer import ReplayRecord
from sglang_memserve.bench.serving.progress import RunProgress


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def shown(to):
    with RunProgress("round 1 of 2, [x]", 3, to) as progress:
        progress.count(ReplayRecord("s", 1, 0.0, 0.0, 1))
        progress.count(ReplayRecord("s", 2, 0.0, 0.0, 1, error="503"))
        during = to.getvalue()
    return during, to.getvalue()


def test_elsewhere_than_on_a_terminal_a_run_leaves_one_line():
    during, after = shown(io.StringIO())
    assert during == ""
    assert after == "round 1 of 2, [x]: 2/3 requests, 1 failed, 0 s\n"


def test_on_a_terminal_a_bar_is_drawn(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    _, after = shown(FakeTerminal())
    assert "round 1 of 2, [x]" in after
    assert "2/3" in after
    assert ", 1 failed" in after
