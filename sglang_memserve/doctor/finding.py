from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """WRONG: it needs a fix. NOTE: it may be intended."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """`says`: what was seen. `do`: what to do about it."""

    check: str
    state: Severity
    says: str
    do: str = ""


def wrong(check: str, says: str, do: str) -> Finding:
    return Finding(check, Severity.WRONG, says, do)


def note(check: str, says: str, do: str = "") -> Finding:
    return Finding(check, Severity.NOTE, says, do)
