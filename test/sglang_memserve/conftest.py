import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sglang_memserve.cluster import spec
from sglang_memserve.cluster.spec import InstanceSpec

FAKE_SERVER = Path(__file__).with_name("cluster") / "fake_server.py"


@pytest.fixture
def fake_argv() -> Callable[..., list[str]]:
    return lambda port, *flags: [sys.executable, str(FAKE_SERVER), "--port", str(port), *map(str, flags)]


@pytest.fixture
def device():
    """One that runs ahead, and takes notes of what could race."""
    # Not at import: it brings torch.
    from recorded_device import RecordedDevice

    return RecordedDevice()


@pytest.fixture
def forward(device):
    """Its stream for an engine's forwards."""
    return device.stream("forward")


@dataclass(frozen=True)
class FakeSpec(InstanceSpec):
    """An instance that is started by any `command`."""

    command: tuple[str, ...] = ()

    def argv(self):
        return list(self.command)


@pytest.fixture
def fake_spec():
    return FakeSpec


@pytest.fixture
def forked_router(forked_python: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that clusters start their router with: Python, without the second that imports take."""
    command = forked_python("router.launch_router")
    monkeypatch.setattr(spec, "_PYTHON", (*command, "-m"))
    # It is up before its instances, and else sees them two seconds later.
    monkeypatch.setenv("MEMSERVE_ROUTER_HEALTH_CHECK_INTERVAL_SECS", "0.1")
    return command


@pytest.fixture
def survivors(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """Living processes with this test's mark in their environment, whoever their parent is."""
    mark = f"TEST_MARK_OF_MEMSERVE={tmp_path}"

    def find() -> list[int]:
        return [p.pid for p in psutil.process_iter() if _alive(p) and mark in _environ(p)]

    yield find
    for pid in find():
        os.kill(pid, signal.SIGKILL)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _environ(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
    except OSError:
        return ""
