"""The rules of the house that a program can check: names, sizes, one home for each class."""

import re
import subprocess
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
# Comments and strings, in which no rule holds. Without them, words tell names: parsing takes seconds.
PROSE = re.compile(r"""#[^\n]*|(\"{3}|'{3}|"|')(?:\\.|(?!\1).)*\1""", re.DOTALL)


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


@pytest.fixture(scope="module")
def code(sources) -> dict[str, str]:
    """The sources with an empty string in place of what is prose; lines stay where they are."""
    blank = lambda prose: '""' + "\n" * prose[0].count("\n") if prose[1] else ""  # noqa: E731
    return {name: PROSE.sub(blank, text) for name, text in sources.items()}


def test_no_file_is_longer_than_400_lines(sources):
    assert {name for name, text in sources.items() if text.count("\n") > MAX_LINES} == set()


def test_no_class_name_stands_in_two_files(code):
    homes: dict[str, list[str]] = defaultdict(list)
    for file, text in code.items():
        if file.startswith(PACKAGES):
            for name in re.findall(r"^\s*class (\w+)", text, re.MULTILINE):
                homes[name].append(file)
    assert len(homes) > 300
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_names_of_tests_are_short(code):
    tests = [
        f"{file}: {name}"
        for file, text in code.items()
        if file.startswith("test/")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", text, re.MULTILINE)
    ]
    assert len(tests) > 1000
    assert [test for test in tests if len(test.rsplit(" ", 1)[1]) > MAX_TEST_NAME] == []


def is_vague(identifier: str) -> bool:
    return identifier in VAGUE_ALONE or not VAGUE.isdisjoint(identifier.lower().split("_"))


def test_no_identifier_is_a_vague_word(code):
    found = [
        f"{file}:{text.count(chr(10), 0, word.start()) + 1}: {word[0]}"
        for file, text in code.items()
        for word in re.finditer(r"\w+", text)
        if is_vague(word[0])
    ]
    assert found == []
