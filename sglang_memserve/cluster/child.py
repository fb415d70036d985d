"""Run as a script: becomes the command after the parent's pid, and dies with that parent.

The kernel then kills it even when `memserve up` itself is killed and can clean nothing up. A script,
because code between fork and exec is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def wrapped(command: list[str]) -> list[str]:
    """What to run in place of `command`, so that it dies with this process."""
    return [sys.executable, "-ISE", __file__, str(os.getpid()), *command]


def main(argv: list[str]) -> None:
    """`argv`: the parent's pid, then the command. Does not return."""
    parent, command = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} died before {command[0]} was started")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
