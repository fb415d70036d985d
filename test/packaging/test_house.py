"""The rules of the house that a program can check: names, sizes, one home for each class."""

import ast
import io
import subprocess
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("mempool", "router", "sglang_memserve", "benchmark")
MAX_LINES = 400
MAX_TEST_NAME = 70
# Words that say nothing of what they name, and those that say nothing alone.
VAGUE = {"told"}
VAGUE_ALONE = {"one"}


def python_files(*folders: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *(f"{folder}/*.py" for folder in folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).exists()]


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    found = python_files(*PACKAGES, "scripts", "test", "docs")
    assert len(found) > 300
    return {str(path.relative_to(ROOT)): path.read_text() for path in found}


def test_no_file_is_longer_than_400_lines(sources):
    assert {name for name, text in sources.items() if text.count("\n") > MAX_LINES} == set()


def test_no_class_name_stands_in_two_files(sources):
    homes: dict[str, list[str]] = defaultdict(list)
    for name, text in sources.items():
        if name.startswith(PACKAGES):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef):
                    homes[node.name].append(name)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_names_of_tests_are_short(sources):
    named = [
        f"{name}: {node.name}"
        for name, text in sources.items()
        if name.startswith("test/")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > MAX_TEST_NAME
    ]
    assert named == []


def is_vague(identifier: str) -> bool:
    return identifier in VAGUE_ALONE or not VAGUE.isdisjoint(identifier.lower().split("_"))


def test_no_identifier_is_a_vague_word(sources):
    found = [
        f"{name}:{token.start[0]}: {token.string}"
        for name, text in sources.items()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and is_vague(token.string)
    ]
    assert found == []
