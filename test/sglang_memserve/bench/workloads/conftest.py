import json

import pytest

from benchmark import data


class Words:
    """A token a word, the same for the same word."""

    def __init__(self):
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids)) for word in text.split()]


@pytest.fixture
def words():
    return Words()


@pytest.fixture(scope="session")
def traces():
    folder = data.traces()
    if not folder.is_dir():
        pytest.skip(f"the public traces are not in {folder}: set {data.VARIABLE}")
    return folder


@pytest.fixture
def written(tmp_path):
    """Writes a file of records, one a line."""

    def write(*records, name="trace.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        return path

    return write
