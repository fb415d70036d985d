"""Kinds of values that settings have. A wrong one raises ValueError, which `explain` puts in one line."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

# What goes into a header, of which servers take so much and little more.
_KEY_CHARS = 4096


def port_number(value: int) -> int:
    if not 0 < value < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return value


def checked_key(value: str) -> str:
    """Raises ValueError, which does not quote it."""
    if not re.fullmatch("[!-~]+", value):
        raise ValueError("give a key of printable ASCII without spaces, or leave it out")
    if len(value) > _KEY_CHARS:
        raise ValueError(f"a key has {_KEY_CHARS} characters at most")
    return value


Port = Annotated[int, AfterValidator(port_number)]
Key = Annotated[str, AfterValidator(checked_key)]
Count = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
