"""The processes that are attacked, and what becomes of them."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sglang_memserve.cluster.ports import PortPicker

_START_S = 120.0
_FIRST_PORT = 38_000


@dataclass
class AttackTarget:
    """A process, and where its log is. `before` and `threads`: as they were when the attack began."""

    name: str
    process: psutil.Popen
    log: Path
    before: int = 0
    threads: frozenset[int] = field(default_factory=frozenset)

    def look(self) -> None:
        self.before = self.process.memory_info().rss
        self.threads = self._threads()

    def verdict(self) -> dict[str, object]:
        """Bytes that it grew by, threads that ended, tracebacks and errors in its log."""
        alive = self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        log = self.log.read_text(errors="replace")
        return {
            "alive": alive,
            "grown_bytes": self.process.memory_info().rss - self.before if alive else 0,
            "threads_ended": len(self.threads - self._threads()) if alive else len(self.threads),
            "tracebacks": log.count("Traceback (most recent call last)"),
            "log": log[-2000:] if "Traceback" in log or not alive else "",
        }

    def _threads(self) -> frozenset[int]:
        return frozenset(thread.id for thread in self.process.threads())


@dataclass(frozen=True)
class Cluster:
    """`endpoints`: by kind of input, where it is thrown."""

    targets: tuple[AttackTarget, ...]
    endpoints: Mapping[str, str]


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A registry, an instance and a router before three engines; logs go to `folder`."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *command: str, pipe: bool = False) -> AttackTarget:
            log = folder / f"{name}.log"
            written = stack.enter_context(log.open("wb"))
            output = subprocess.PIPE if pipe else written
            process = psutil.Popen([sys.executable, "-m", *command], stdout=output, stderr=written)
            stack.callback(_end, process)
            return AttackTarget(name, process, log)

        picker = stack.enter_context(PortPicker("127.0.0.1", _FIRST_PORT))
        ports = [picker.pick() for _ in range(4)]
        start("engine", "benchmark.attack.engine", *map(str, ports[1:]))
        registry = start("registry", "mempool.membership.registry", "--bind", "tcp://127.0.0.1:0", pipe=True)
        registry_at = registry.process.stdout.readline().decode().strip()
        instance = start("instance", "benchmark.attack.instance", registry_at, pipe=True)
        where = json.loads(instance.process.stdout.readline())
        url = f"http://127.0.0.1:{ports[0]}"
        router = start("router", "router.launch_router", *_flags(ports))
        _wait_for(f"{url}/readiness")
        yield Cluster((registry, instance, router), {"registry": registry_at, "router": url, **where})


def _flags(ports: list[int]) -> list[str]:
    port, prefill, decode, colocated = ports
    at = "http://127.0.0.1"
    flags = ["--port", str(port), "--prefill", f"{at}:{prefill}", "8998", "--decode", f"{at}:{decode}"]
    return [*flags, "--worker-urls", f"{at}:{colocated}"]


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _end(process: psutil.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
