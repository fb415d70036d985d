"""The program that docs/mempool.md shows."""

import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from mempool.membership.registry_server import MembershipRegistry

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "example_mempool.py"


@pytest.fixture
def start(torch_python):
    registry = MembershipRegistry("tcp://127.0.0.1:0")
    running = []

    def start(*names):
        command = [sys.executable, str(EXAMPLE), registry.endpoint, *names]
        running.append(torch_python.popen(command, stdin=PIPE, stdout=PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()
    registry.close()


def test_two_processes_match_each_others_kv(start):
    both = [start("a", "b"), start("b", "a")]
    lines = [[process.stdout.readline() for _ in range(2)] for process in both]
    assert lines == [
        ["a sent 10 blocks to b\n", "a matched 160 tokens in dram, bytes [98]\n"],
        ["b sent 10 blocks to a\n", "b matched 160 tokens in dram, bytes [97]\n"],
    ]
    for process in both:
        process.communicate("\n", 30)
        assert process.returncode == 0


def test_the_docs_quote_the_program_that_this_test_runs():
    assert f"```python\n{EXAMPLE.read_text()}```" in (DOCS / "mempool.md").read_text()
