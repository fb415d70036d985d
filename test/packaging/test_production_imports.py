"""What the wheel holds imports nothing of what measures it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported(file):
    """Names of all modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package, *folders):
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    found = {file for file in files for name in imported(file) if f"{name}.".startswith(f"{package}.")}
    return {str(file.relative_to(ROOT)) for file in found}


@pytest.mark.parametrize("package", ["benchmark", "scripts", "test"])
def test_production_imports_nothing_of_the_benchmarks(package):
    assert importers(package, "mempool", "router", "sglang_memserve") == set()


def test_only_the_bench_command_imports_bench():
    outside = importers("sglang_memserve.bench", "mempool", "router", "sglang_memserve")
    assert {file for file in outside if not file.startswith("sglang_memserve/bench/")} == {
        "sglang_memserve/cli/bench.py"
    }
