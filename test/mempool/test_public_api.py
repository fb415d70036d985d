"""What `import mempool` offers, and what it costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mempool

# Type checkers see neither.
HOMES, PUBLIC = vars(mempool)["_HOMES"], vars(mempool)["__all__"]
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


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_loads_and_is_documented(name):
    value = getattr(mempool, name)
    assert value.__name__ == name
    assert value.__doc__


def test_type_checkers_read_the_same_names_as_run():
    read = {}
    for line in Path(mempool.__file__).read_text().splitlines():
        if found := re.fullmatch(r"    from (mempool\.\S+) import (\w+) as \2", line):
            read.setdefault(found[1], []).append(found[2])
    assert {module: list(names) for module, names in HOMES.items()} == read


def test_the_public_names_are_listed_and_imported_by_a_star():
    assert set(PUBLIC) <= set(dir(mempool))
    imported = {}
    exec("from mempool import *", imported)
    assert set(PUBLIC) <= set(imported)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'MemPol'"):
        getattr(mempool, "MemPol")  # noqa: B009


def test_naming_the_package_loads_no_torch():
    check = (
        "import sys, mempool\n"
        "assert 'torch' not in sys.modules\n"
        f"for name in {LIGHT}: getattr(mempool, name)\n"
        "assert 'torch' not in sys.modules\n"
        # Not to be had from here on, which who needs it finds out.
        "sys.modules['torch'] = None\n"
        "try: mempool.MemPool\n"
        "except ImportError as error: assert error.name == 'torch'\n"
        "else: raise AssertionError('the MemPool itself needs no torch')\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
