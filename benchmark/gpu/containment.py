"""Run as a script: runs a command for a limited time, and leaves none of its processes, whatever ends it.

The kernel makes this process the parent of every orphan of the command's, so that all of them are found; and
it is told when the process that started it dies. A process of its own, as both hold for all of it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

TIMED_OUT, INTERRUPTED = 124, 130
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KILL_S, _POLL_S = 30.0, 0.1


class _Stopped(Exception):
    pass


def contained(argv: Sequence[str], limit_s: float, grace_s: float) -> list[str]:
    """What to run in place of `argv`. It ends with the command's exit status, as a shell gives it, TIMED_OUT,
    or INTERRUPTED after a signal. The command gets SIGINT then, and its processes `grace_s` seconds.
    """
    own = [sys.executable, "-P", __file__, str(os.getpid()), str(limit_s), str(grace_s)]
    return [*own, *argv]


def main(arguments: Sequence[str]) -> int:
    parent, limit_s, grace_s, *argv = arguments
    command = None
    try:
        for number in _STOP_SIGNALS:
            signal.signal(number, _stop)
        _tie(int(parent))
        command = subprocess.Popen(argv, start_new_session=True)
        code = command.wait(float(limit_s))
        return code if code >= 0 else 128 - code
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    except _Stopped:
        return INTERRUPTED
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        return 127
    finally:
        # A second signal must not end the tidying up.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _end(command, float(grace_s))


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def _tie(parent: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(f"the parent {parent} died before the command was started")


def _end(command: subprocess.Popen[bytes] | None, grace_s: float) -> None:
    # Not at the top: the plan is printed where it is not installed.
    import psutil

    if command is not None and command.poll() is None:
        command.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(grace_s)
    deadline, killed = time.monotonic() + _KILL_S, set[int]()
    while left := psutil.Process().children(recursive=True):
        killed |= {process.pid for process in left}
        if time.monotonic() > deadline:
            print(f"left behind, as they cannot be killed: {[each.pid for each in left]}", file=sys.stderr)
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=_POLL_S)
    if killed:
        print(f"killed processes that were left: {len(killed)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
