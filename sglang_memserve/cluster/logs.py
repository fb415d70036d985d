"""The folder of a cluster's logs, and what a server's log says about its end."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sglang_memserve.cluster.errors import ClusterError

_TAIL_BYTES = 256 * 1024
_WIDTH = 240
_NOISE = re.compile(r"server_args=|ServerArgs\(|Ignore import error")
# An exception's own line, at the start or behind a log prefix; or a complaint in SGLang's words.
_REPORTS_ERROR = re.compile(
    r"(^|[\s.])\w*(Error|Exception|Exit|Interrupt)(:|$)|\b(error|fatal|crashed|killed|refused|failed)\b",
    re.IGNORECASE,
)


@contextlib.contextmanager
def claimed(folder: Path, port: int) -> Iterator[None]:
    """Keeps the logs' folder, made if need be, to this process. Raises ClusterError if another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, port)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, port: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ClusterError(
            f"another `memserve up` uses port {port} with logs in {folder}: "
            "stop it, or choose another --port and --log-dir"
        ) from None


def last_errors(log: Path, count: int = 6) -> list[str]:
    """The last `count` different lines that report an error, oldest first; without any, the last lines."""
    lines = [line for line in tail(log) if not _NOISE.search(line)]
    reports = [line for line in lines if _REPORTS_ERROR.search(line)]
    unique = list(dict.fromkeys(reversed(reports or lines)))
    return [_shortened(line) for line in reversed(unique[:count])]


def tail(log: Path) -> list[str]:
    """The non-empty lines at the end of a log; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _shortened(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}..."
