"""What the command says, as long as somebody reads it."""

import os
import sys
from collections.abc import Sequence
from typing import TextIO


def show(text: str, to: TextIO | None = None) -> None:
    """Prints to stdout, or `to`. Once nobody reads that (a closed pipe or terminal), all of it is dropped."""
    stream = to or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # What could not be written is tried again when Python ends: it must go somewhere.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, in columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
