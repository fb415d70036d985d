import itertools
import random
import signal
import socket
from pathlib import Path

import pytest
from zygote import Zygote

# Below the ephemeral range, where an outgoing connection may take a port between the pick and its use.
PORTS = range(10_000, 30_000)
E2E = Path(__file__).parent / "e2e"


@pytest.fixture(scope="session")
def free_port():
    """Picks ports that nobody uses, each once."""
    start = random.randrange(len(PORTS))
    ports = (PORTS[n % len(PORTS)] for n in itertools.count(start, 3))

    def pick():
        return next(port for port in ports if is_free(port))

    return pick


@pytest.fixture(scope="session")
def torch_python():
    """Its `popen` and `run` are those of subprocess, for a `python` that has torch and the MemPool loaded."""
    return Zygote("torch", "mempool.pool")


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


def pytest_collection_modifyitems(config, items):
    full, cuda = config.getoption("--full"), None
    for item in items:
        if "full" in item.keywords and not full:
            item.add_marker(pytest.mark.skip(reason="part of the full matrix: --full runs it"))
        if "gpu" in item.keywords:
            if cuda is None:
                import torch

                cuda = torch.cuda.is_available()
            if not cuda:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))
