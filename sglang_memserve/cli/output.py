"""Output of the commands: plain text in a pipe, colours and tables on a terminal."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

_WIDTH = 500


def show(text: str, to: TextIO | None = None, end: str = "\n") -> None:
    """Prints to stdout, or `to`. Once nobody reads that (a closed pipe or terminal), all of it is dropped."""
    stream = to or sys.stdout
    try:
        print(text, file=stream, end=end, flush=True)
    except OSError:
        # What could not be written is tried again when Python ends: it must go somewhere.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def show_styled(lines: Sequence[tuple[str, str]]) -> None:
    """Lines of text, each with a style of rich's that a terminal shows it in."""
    if not sys.stdout.isatty():
        show("\n".join(text for text, _ in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for text, style in lines:
        console.print(Text(text, style))


def show_table(lines: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None) -> None:
    """A table with its headings in the first line. `styles`: rich's, by the text of a cell."""
    if not sys.stdout.isatty():
        show(aligned(lines))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    headings, *rows = lines
    numeric = [all(_is_number(row[at]) for row in rows) for at in range(len(headings))]
    table = Table(box=SIMPLE, pad_edge=False)
    for heading, right in zip(headings, numeric, strict=True):
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, (styles or {}).get(cell, "")) for cell in row))
    # A terminal wraps what is too wide, and URLs stay whole.
    Console(width=_WIDTH).print(table)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, in columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).isdecimal()
