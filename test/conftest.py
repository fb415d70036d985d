import contextlib
import importlib.util
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import e2e_engine
import pytest
from zygote import Zygote

# Below the ephemeral range, where an outgoing connection may take a port between the pick and its use.
PORTS = range(10_000, 30_000)
E2E = Path(__file__).parent / "e2e"
ROOT = Path(__file__).parents[1]
FORKED_PYTHON = Path(__file__).parent / "support" / "forked_python.py"


@pytest.fixture(scope="session")
def free_port():
    """Picks ports that nobody uses, each once."""
    start = random.randrange(len(PORTS))
    ports = (PORTS[n % len(PORTS)] for n in itertools.count(start, 3))

    def pick():
        return next(port for port in ports if is_free(port))

    return pick


@pytest.fixture
def open_things():
    """An ExitStack for what a test opens."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def torch_python():
    """Its `popen` and `run` are those of subprocess, for a `python` that has torch and the MemPool loaded."""
    return Zygote("torch", "mempool.pool")


@pytest.fixture(scope="session")
def forked_python():
    """`forked_python("module", ...)`: a command that stands for `python`, without the seconds of imports.

    What a program imports first, and the named modules, are imported once a session: see forked_python.py.
    """
    # In the system's folder: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="zygote-") as folder:
        path = Path(folder) / "socket"
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        zygote = subprocess.Popen(
            [sys.executable, str(FORKED_PYTHON), "serve", str(path)],
            stdin=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        while not path.exists():
            assert zygote.poll() is None
            time.sleep(0.01)
        yield lambda *modules: [
            sys.executable,
            "-ISE",
            str(FORKED_PYTHON),
            "run",
            str(path),
            ",".join(modules),
        ]
        zygote.stdin.close()
        zygote.wait()


@pytest.fixture(scope="module")
def load_script():
    """load_script(name): scripts/NAME.py as a module, there until the file's last test has ended."""
    loaded = []

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pytest_configure(config):
    # In the background of a script it is ignored, by all that tests start too: nothing would end by Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(config.option, "numprocesses", None) and any(map(holds_e2e, config.args)):
        raise pytest.UsageError("test/e2e starts real servers, one cluster at a time: leave it out, or -n")


def holds_e2e(argument):
    path = Path(argument.split("::")[0]).resolve()
    return path == E2E or E2E in path.parents or path in E2E.parents


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the whole matrix of real servers too")
    e2e_engine.add_options(parser)


def pytest_collection_modifyitems(config, items):
    full, cuda = config.getoption("--full"), None
    for item in items:
        # Keywords have the names of folders too, such as that of a checkout called "gpu".
        marks = {mark.name for mark in item.iter_markers()}
        if "full" in marks and not full:
            item.add_marker(pytest.mark.skip(reason="part of the full matrix: --full runs it"))
        if "cpu" in marks and e2e_engine.visible_gpus(config):
            item.add_marker(pytest.mark.skip(reason="float32 or MemServe's attention: not on a GPU"))
        if "gpu" in marks:
            if cuda is None:
                import torch

                cuda = torch.cuda.is_available()
            if not cuda:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))
