"""Starts Python programs by forking an interpreter that has imported their modules already.

For programs whose parent must be what started them: they run behind a stand-in of their own. All others are
forked by `zygote.py`, which gives a `Popen`.

`forked_python.py serve SOCKET` imports and forks. `forked_python.py run SOCKET MODULES ARGUMENTS` takes the
arguments of an interpreter (`-m MODULE`, `-c CODE` or a script, and what follows) and behaves as that
program. Its streams, environment and folder are those of the caller, signals reach it, and it ends as the
program ends. MODULES are more that it imports at some time, with commas between them.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_REQUEST = 1 << 20


def run(path, modules, argv):
    """Stands for the program, which is another's child, where the caller waits for a child of its own."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    request = {"modules": modules.split(","), "argv": argv, "cwd": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    pid = int(connection.recv(64))

    def forward(number, _):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    # What the program closes is then closed for whoever reads it.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = int(connection.recv(64))
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other action
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


class Zygote:
    """Forks until its standard input ends, which it does with the process that started this one."""

    def __init__(self, path):
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen()
        self._imported = set()
        self._running = {}  # by connection: the child, and a descriptor that is readable once it has ended

    def serve(self):
        """Returns in each child, with the request that made it."""
        while True:
            poll = select.poll()
            for readable in (0, self._listener, *self._running, *(end for _, end in self._running.values())):
                poll.register(readable, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if 0 in ready:
                for pid, _ in self._running.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            self._reap()
            if self._listener.fileno() in ready:
                request = self._fork(self._listener.accept()[0])
                if request is not None:
                    return request

    def _fork(self, connection):
        message, streams, _, _ = socket.recv_fds(connection, MAX_REQUEST, 3)
        if not message:
            return None
        request = json.loads(message)
        self._import(request)
        pid = os.fork()
        if pid:
            self._running[connection] = (pid, os.pidfd_open(pid))
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(OSError):
                connection.send(str(pid).encode())
            return None
        os.setsid()
        self._listener.close()
        for held, (_, end) in [(connection, (None, None)), *self._running.items()]:
            held.close()
            if end is not None:
                os.close(end)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request

    def _import(self, request):
        """Imports what the program imports, so that the next that needs it has it."""
        program, *arguments = request["argv"]
        wanted = [*request["modules"], *{"-m": arguments[:1], "-c": []}.get(program, [program])]
        for name in wanted:
            if name and name not in self._imported:
                self._imported.add(name)
                # The program will say it of itself.
                with contextlib.suppress(Exception, SystemExit):
                    if name.endswith(".py"):
                        # All but what stands below `if __name__ == "__main__"`.
                        runpy.run_path(name, run_name="imported")
                    else:
                        importlib.import_module(name)
                gc.collect()
                # Its children need not go through that again, which would copy its pages.
                gc.freeze()

    def _reap(self):
        for connection, (pid, end) in list(self._running.items()):
            if is_readable(end):
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(OSError):
                    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            elif is_readable(connection):
                # Whoever stood for it was killed.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            else:
                continue
            del self._running[connection]
            os.close(end)
            connection.close()


def is_readable(descriptor):
    return bool(select.select([descriptor], [], [], 0)[0])


def become(request):
    """Runs the program as an interpreter does that gets these arguments."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.stdin, sys.stdout, sys.stderr = (stream(number) for number in range(3))
    program, *sys.argv = request["argv"]
    if program == "-m":
        name = sys.argv[0]
        # It is there under its own name: that it runs once more, as the program, is no mistake.
        sys.modules.pop(name, None)
        sys.path.insert(0, request["cwd"])
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif program == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv.insert(0, program)
        sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
        runpy.run_path(program, run_name="__main__")


def stream(number):
    raw = io.FileIO(number, "w" if number else "r", closefd=False)
    buffered = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
    return io.TextIOWrapper(buffered, "utf-8", line_buffering=number == 2 or os.isatty(number))


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], sys.argv[3], sys.argv[4:])
    # Nothing is imported from the folder of this file.
    sys.path.pop(0)
    become(Zygote(sys.argv[2]).serve())
