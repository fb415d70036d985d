"""A process that imports once what several checks need, and forks for each of them.

What a check changes there lasts as long as its own process, as if it had been started for it alone.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory


class Zygote:
    """`with Zygote("a.module", ...) as zygote`: the modules are imported before the first check is run."""

    def __init__(self, *modules):
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, code, argv=(), timeout=120, **environ):
        """As `python -c code *argv` with these variables as well: its exit status and what it wrote."""
        with TemporaryDirectory() as folder:
            files = [str(Path(folder, name)) for name in ("stdout", "stderr")]
            print(json.dumps([code, argv, environ, files]), file=self._process.stdin, flush=True)
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(code, timeout)
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(argv, status, *(Path(file).read_text() for file in files))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A check that has not ended goes too, and what it has started.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def serve(modules):
    """Imports, then forks for each request on stdin, and answers with how it ended."""
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    # Or each fork would copy all that has been imported, as soon as it collects garbage.
    gc.freeze()
    gc.enable()
    for line in sys.stdin:
        code, argv, environ, files = json.loads(line)
        if not (pid := os.fork()):
            for number, file in enumerate([os.devnull, *files]):
                os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
            os.environ.update(environ)
            sys.argv[1:] = argv
            status = run(code)
            sys.stdout.flush()
            # Taking hundreds of modules apart, as at an ordinary exit, takes seconds.
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(code):
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as end:
        if not isinstance(end.code, str):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1:])
