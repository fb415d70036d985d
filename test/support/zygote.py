"""Python processes that begin with their imports done: each is forked, in milliseconds, from one that waits.

torch alone takes seconds of a processor to import. `Zygote("torch").popen([sys.executable, script])` is
`subprocess.Popen`, and what it runs is a process like any other, with its own arguments, environment,
folder, streams and exit code, but that it finds those modules loaded. So it is not for tests of what is
loaded, or of what a library reads of its environment as it is loaded.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
import types
import zlib
from pathlib import Path
from select import select

_JOB_BYTES = 1 << 20
_START_SECONDS = 60.0
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Zygote:
    """The waiting process is started when it is first needed, and is one for all workers of pytest-xdist."""

    def __init__(self, *modules):
        self._modules = modules
        self._owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
        # An address has 107 characters at most.
        self._name = f"\0memserve-zygote-{self._owner}-{zlib.crc32(' '.join(modules).encode())}"

    def popen(self, command, **how):
        return ZygotePopen(self._connected, command, **how)

    def run(self, command, *, timeout, check=False, capture_output=False, **how):
        if capture_output:
            how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.popen(command, **how) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(command, process.returncode, out, err)
        if check:
            done.check_returncode()
        return done

    def _connected(self):
        """A connection for one process. Starts the zygote where there is none."""
        deadline, started = time.monotonic() + _START_SECONDS, False
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._name)
                return connection
            except ConnectionRefusedError:
                connection.close()
                assert time.monotonic() < deadline, "the zygote does not start"
            if not started:
                self._start()
                started = True
            time.sleep(0.01)

    def _start(self):
        """Of two that are started at once, the second finds the name taken and ends."""
        os.posix_spawn(
            sys.executable,
            [sys.executable, __file__, self._name[1:], str(self._owner), *self._modules],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)],
            # Ctrl-C at a terminal is pytest's.
            setsid=True,
        )


class _PopenOfFork(subprocess.Popen):
    """Popen, but for how the process begins."""

    def __init__(self, command, **how):
        self._session = how.get("start_new_session", False)
        super().__init__(command, **how)

    def _execute_child(self, args, _executable, _preexec, _close, _pass, cwd, env, *rest):
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[3:9]
        streams = [fd if fd >= 0 else standard for standard, fd in enumerate((p2cread, c2pwrite, errwrite))]
        job = {
            "argv": [os.fspath(part) for part in args[1:]],
            "env": dict(os.environ if env is None else env),
            "cwd": os.fspath(cwd or os.getcwd()),
            "session": self._session,
        }
        try:
            self.pid = self._begin(job, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


class ZygotePopen(_PopenOfFork):
    """A child of the zygote, which says on a connection how it ended."""

    def __init__(self, connect, command, **how):
        self._connect = connect
        super().__init__(command, **how)

    def _begin(self, job, streams):
        self._end = self._connect()
        socket.send_fds(self._end, [json.dumps(job).encode()], streams)
        self._end.shutdown(socket.SHUT_WR)
        return self._number()

    def _number(self):
        data = self._end.recv(4)
        assert data, "the zygote has died"
        return int.from_bytes(data, "little")

    def _try_wait(self, wait_flags):
        if not select([self._end], [], [], 0 if wait_flags & os.WNOHANG else None)[0]:
            return 0, 0
        status = self._number()
        self._end.close()
        return self.pid, status

    def _internal_poll(self, _deadstate=None):
        """What `poll` asks, and where the process is killed or sent a signal."""
        if self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


class ForkPopen(_PopenOfFork):
    """A child of this process, forked to run what `python` is to run: for the processes of a zygote's."""

    def _begin(self, job, streams):
        # What a handler raises while fork's own hooks run is lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                for number in _HANDLED:
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid == 0:
            code = 1
            try:
                _become(job, streams)
                os.closerange(3, 1 << 16)
                _run(job["argv"])
                code = 0
            except SystemExit as done:
                code = done.code if isinstance(done.code, int) else int(done.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        return pid


def _become(job, streams):
    for place, fd in enumerate(streams):
        os.dup2(fd, place)
    if job["session"]:
        os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    path = filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [folder for folder in path if folder not in sys.path]


def _run(arguments):
    """As `python` does with these arguments."""
    safe = arguments[0] == "-P"
    what, *rest = arguments[safe:]
    if what in ("-c", "-m"):
        sys.path[:0] = [] if safe else [os.getcwd()]
    if what == "-c":
        sys.argv = ["-c", *rest[1:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(module))
    elif what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [what, *rest]
        sys.path[:0] = [] if safe else [str(Path(what).resolve().parent)]
        runpy.run_path(what, run_name="__main__")


def _serve(listener, owner):
    """Forks for each that connects, until the owner is gone. Returns in a child alone: what it is to run."""
    children = {}
    with selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ)
        events.register(owner, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fd == owner:
                    for pid, _ in children.values():
                        os.kill(pid, signal.SIGKILL)
                    sys.exit()
                if key.fd in children:
                    events.unregister(key.fd)
                    _report(key.fd, *children.pop(key.fd))
                    continue
                connection, _ = listener.accept()
                message, streams = _received(connection)
                pid = os.fork()
                if pid == 0:
                    for fd, (_, other) in children.items():
                        os.close(fd)
                        other.close()
                    connection.close()
                    return message, streams
                for fd in streams:
                    os.close(fd)
                connection.sendall(pid.to_bytes(4, "little"))
                ends = os.pidfd_open(pid)
                children[ends] = pid, connection
                events.register(ends, selectors.EVENT_READ)


def _received(connection):
    message, streams, _, _ = socket.recv_fds(connection, _JOB_BYTES, 3)
    while part := connection.recv(_JOB_BYTES):
        message += part
    return json.loads(message), streams


def _report(ends, pid, connection):
    os.close(ends)
    _, status = os.waitpid(pid, 0)
    # Whoever started it may be gone.
    with connection, contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "little"))


def _main():
    name, owner, *modules = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("\0" + name)
    except OSError:
        return
    listener.listen(100)
    # This folder is on no path of a process that tests start.
    del sys.path[0]
    for module in modules:
        importlib.import_module(module)
    # Else the garbage collector of each child copies all that was imported.
    gc.freeze()
    watched = os.pidfd_open(int(owner))
    job, streams = _serve(listener, watched)
    listener.close()
    os.close(watched)
    _become(job, streams)
    for fd in streams:
        os.close(fd)
    _run(job["argv"])


if __name__ == "__main__":
    _main()
