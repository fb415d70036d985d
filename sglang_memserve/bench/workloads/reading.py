"""Records of trace files, one at a time, each checked against the type it should have."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import msgspec

from sglang_memserve.bench.workloads.errors import WorkloadError, refused

Count = Annotated[int, msgspec.Meta(ge=0)]

_T = TypeVar("_T")
_CHUNK = 1 << 20
_ENTRY_MAX = 64 << 20
_BETWEEN = re.compile(r"[\s,]*")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


def json_lines(path: Path, kind: type[_T]) -> Iterator[tuple[str, _T]]:
    """Each line's place and record. Raises WorkloadError for a line that is no such record."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if line.strip():
                yield where, checked(where, _parsed(where, line), kind)


def csv_lines(path: Path, kind: type[_T]) -> Iterator[tuple[str, _T]]:
    """As `json_lines`, of a table whose first line has the fields' names."""
    with _opened(path) as file:
        table = csv.DictReader(file)
        for row in table:
            where = f"{path}, line {table.line_num}"
            yield where, checked(where, row, kind, strict=False)


def json_entries(path: Path, kind: type[_T]) -> Iterator[tuple[str, _T]]:
    """Each entry of a file that is one JSON list, without ever holding the whole list."""
    with _opened(path) as file:
        for number, entry in enumerate(_entries(path, file), 1):
            where = f"{path}, entry {number}"
            yield where, checked(where, entry, kind)


def json_file(path: Path, kind: type[_T]) -> _T:
    """The one record that the file is."""
    with _opened(path) as file:
        return checked(str(path), _parsed(str(path), file.read()), kind)


def checked(where: str, value: object, kind: type[_T], strict: bool = True) -> _T:
    """`value` as a `kind`; if not `strict`, also from text. Raises WorkloadError if it is none."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        why, _, place = str(error).partition(" - at `$")
        if not place:
            raise WorkloadError(f"{where}: {why}") from None
        place = place.rstrip("`")
        raise refused(where, place.lstrip("."), _at(value, place), why[0].lower() + why[1:]) from None


def _at(value: Any, place: str) -> object:
    for name, index in _STEP.findall(place):
        value = value[name] if name else value[int(index)]
    return value


def _parsed(where: str, line: str) -> object:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise WorkloadError(f"{where}: not JSON: {error}") from None


def _entries(path: Path, file: TextIO) -> Iterator[object]:
    decoder = json.JSONDecoder()
    text, at, number = file.read(_CHUNK).lstrip(), 1, 1
    if not text.startswith("["):
        raise WorkloadError(f"{path}: expected a JSON list")
    while not text.startswith("]", at := _skip(text, at)):
        try:
            entry, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            more = file.read(_CHUNK)
            if not more or len(text) - at > _ENTRY_MAX:
                raise WorkloadError(f"{path}, entry {number}: not JSON, or cut off: {error.msg}") from None
            text, at = text[at:] + more, 0
            continue
        number += 1
        yield entry


def _skip(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise WorkloadError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path} is not UTF-8 text: {error}") from error
