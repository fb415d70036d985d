"""The reference of commands that the site makes from their parsers."""

import argparse
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(load_script):
    return load_script("gen_reference")


def section(text, command):
    return text.partition(f"## `{command}`\n")[2].partition("\n## ")[0]


def test_every_command_has_a_section_with_all_of_its_flags(reference):
    text = reference.cli()
    parsers = dict(reference._parsers())
    assert {"memserve up", "memserve router", "memserve doctor"} <= set(parsers)
    for name, parser in parsers.items():
        flags = [
            flag
            for action in parser._actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
            for flag in action.option_strings
        ]
        missing = [flag for flag in flags if f"`{flag}" not in section(text, name)]
        assert missing == []


def test_flags_that_help_hides_are_not_listed(reference):
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument("--seen", help="shown")
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    text = reference._command("x", parser)
    assert "--seen SEEN" in text
    assert "--hidden" not in text


def test_a_help_text_cannot_break_the_table(reference):
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument(
        "--mode", choices=("a", "b"), default="a", help="one|other\n<x> (default: %(default)s)"
    )
    (row,) = [line for line in reference._command("x", parser).splitlines() if "--mode" in line]
    assert row == "| `--mode MODE` | one\\|other &lt;x> (default: a). One of `a`, `b` |"


def test_a_marker_becomes_what_it_names(reference):
    page = "# Title\n\n<!-- generated: changelog -->\n\nend"
    assert reference.on_page_markdown(page) == f"# Title\n\n{reference.changelog()}\n\nend"


def test_every_marker_of_the_docs_is_known(reference):
    pages = (ROOT / "docs").rglob("*.md")
    markers = {name for page in pages for name in re.findall(r"<!-- generated: (.*?) -->", page.read_text())}
    assert markers == set(reference._PARTS)
