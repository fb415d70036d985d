import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mempool.flags import TransferFlags
from mempool.transports.registry import Transports

# Tests lie in no package, and the machine is too much for one file.
sys.path.insert(0, str(Path(__file__).parent))

from pool_model import Gated, Side, keys_of, kv_of, tokens_of
from waiting import until


@pytest.fixture
def make_sides():
    """make_sides() makes a function of a name that gives a new pool of that name, all in one world."""

    def make():
        transports, gated = Transports(), Gated()
        transports.register("gated", gated)
        return lambda name: Side(name, transports, gated)

    return make


@pytest.fixture
def model():
    return SimpleNamespace(
        tokens_of=tokens_of, kv_of=kv_of, keys_of=keys_of, until=until, move=TransferFlags(move=True)
    )


@pytest.fixture
def gated_transports():
    """Transports with a scheme `gated`, and its gates by URL."""
    transports, gated = Transports(), Gated()
    transports.register("gated", gated)
    return transports, gated.gates
