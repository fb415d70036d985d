"""What `import mempool` offers, and what it costs."""

import subprocess
import sys

import pytest

import mempool

LIGHT = [
    "Addresses",
    "BlockLayout",
    "EngineHbm",
    "InstanceInfo",
    "MemPoolConfig",
    "MemPoolError",
    "SocketLimits",
    "TransferFlags",
    "Transports",
]


@pytest.mark.parametrize("name", mempool.__all__)
def test_every_public_name_loads_and_is_documented(name):
    value = getattr(mempool, name)
    assert value.__name__ == name
    assert value.__doc__


def test_the_lazy_names_are_the_public_ones():
    assert sorted(name for names in mempool._NAMES.values() for name in names) == sorted(mempool.__all__)
    assert set(mempool.__all__) <= set(dir(mempool))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'MemPol'"):
        mempool.MemPol  # noqa: B018


@pytest.mark.parametrize("names", [[], LIGHT])
def test_naming_the_package_loads_no_torch(names):
    check = (
        "import sys, mempool\n"
        f"for name in {names}: getattr(mempool, name)\n"
        "assert 'torch' not in sys.modules\n"
        "from mempool import MemPool\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
