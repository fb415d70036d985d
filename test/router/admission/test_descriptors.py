"""How many connections a process has descriptors for."""

import resource
import subprocess
import sys

import pytest

from router.admission.descriptors import connections_for, raise_descriptor_limit


@pytest.fixture
def limits(monkeypatch):
    """`limits`: soft and hard, of a process that may change them."""
    held = [256, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(held))
    monkeypatch.setattr(resource, "setrlimit", lambda which, values: held.__setitem__(slice(2), values))
    return held


@pytest.mark.parametrize("soft", [64, 256, 1024, 65536, 1 << 30])
@pytest.mark.parametrize("instances", [0, 2, 64])
def test_clients_and_what_is_opened_for_them_fit(limits, soft, instances):
    limits[0] = soft
    connections = connections_for(instances)
    assert 16 <= connections <= 8192
    assert connections == 16 or 3 * connections + 8 * instances + 64 <= soft


def test_without_a_limit_memory_is_the_bound(limits):
    limits[0] = resource.RLIM_INFINITY
    assert connections_for(2) == 8192


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (256, 4096, 4096),
        (4096, 4096, 4096),
        (1024, resource.RLIM_INFINITY, 1 << 20),
        (1024, 1 << 30, 1 << 20),
        (1 << 25, 1 << 30, 1 << 25),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(limits, soft, hard, raised):
    limits[:] = soft, hard
    raise_descriptor_limit()
    assert limits == [raised, hard]


def test_a_real_process_raises_its_limit():
    code = (
        "import resource\n"
        "from router.admission.descriptors import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))\n"
        "raise_descriptor_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["512", "512"]
