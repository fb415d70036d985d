#!/usr/bin/env python3
"""The parts of the documentation that are made from the code, so that they cannot go stale.

mkdocs.yml names this file as a hook: a page's line `<!-- generated: NAME -->` becomes what NAME stands for.

    python scripts/gen_reference.py cli         every command and every flag, from their argparse parsers
    python scripts/gen_reference.py options     MemServe's own flags of an instance, as its --help has them
    python scripts/gen_reference.py changelog   CHANGELOG.md of the repository's root
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# argparse's own names of what has no group.
_UNTITLED = ("positional arguments", "options", None)
_MARKER = re.compile(r"^<!-- generated: ([a-z]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this with the text of each page."""
    return _MARKER.sub(lambda found: _PARTS[found[1]](), markdown)


def cli() -> str:
    """A section for each command, with a table of flags for each group of them."""
    _import_from_here()
    return "\n\n".join(_command(name, parser) for name, parser in _parsers())


def options() -> str:
    _import_from_here()
    from sglang_memserve.options import help_text

    return f"```text\n{help_text().rstrip()}\n```"


def changelog() -> str:
    """Without its first heading: the page has one."""
    file = ROOT / "CHANGELOG.md"
    if not file.exists():
        return "There is no release yet."
    return re.sub(r"\A# .*\n+", "", file.read_text())


def _import_from_here() -> None:
    """So that the flags are those of this tree, wherever another copy is installed."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    from router.config.flags import make_parser
    from sglang_memserve.cli.main import make_parser as make_command

    for action in make_command()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                # The router's command hands its flags on to the router's own parser.
                yield f"memserve {name}", make_parser() if name == "router" else parser


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## `{name}`"]
    if parser.description:
        parts.append(_paragraphs(parser.description))
    tables: dict[str, list[str]] = {}
    for group in parser._action_groups:
        title = "" if group.title in _UNTITLED else str(group.title)
        rows = tables.setdefault(title, [])
        rows += [_row(action, parser.prog) for action in group._group_actions if _is_shown(action)]
    for title, rows in tables.items():
        if rows:
            head = [f"**{_plain(title)}**", ""] if title else []
            parts.append("\n".join([*head, "| flag | meaning |", "|---|---|", *rows]))
    if parser.epilog:
        parts.append(_paragraphs(parser.epilog))
    return "\n\n".join(parts)


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)


def _row(action: argparse.Action, prog: str) -> str:
    names = [f"`{flag}{_value(action)}`" for flag in action.option_strings] or [f"`{_metavar(action)}`"]
    formatter = argparse.HelpFormatter(prog)
    text = formatter._expand_help(action) if action.help else ""
    if action.choices is not None:
        text = f"{text}. One of {', '.join(f'`{choice}`' for choice in action.choices if choice)}".lstrip(
            ". "
        )
    return f"| {', '.join(names)} | {_plain(text)} |"


def _value(action: argparse.Action) -> str:
    return "" if action.nargs == 0 else f" {_metavar(action)}"


def _metavar(action: argparse.Action) -> str:
    if not action.option_strings:
        return action.metavar if isinstance(action.metavar, str) else action.dest
    metavar = action.metavar or action.dest.split("_")[-1].upper()
    if isinstance(metavar, str):
        return metavar
    return " ".join(f"[{name}]" if index else name for index, name in enumerate(metavar))


def _paragraphs(text: str) -> str:
    """Prose as it is; indented lines, which are examples, as code."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        code = [line.strip() for line in lines if line.startswith("  ")]
        prose = " ".join(line for line in lines if not line.startswith("  "))
        parts += [_plain(prose)] if prose else []
        parts += ["```\n" + "\n".join(code) + "\n```"] if code else []
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """On one line, with nothing that Markdown or a table would take for its own."""
    text = re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")
    text = re.sub(r"(?<![`\w-])(--[a-z][a-z-]+|MEMSERVE_[A-Z_]+)", r"`\1`", text)
    # The page that it stands on is in a folder of the site's.
    return re.sub(r"docs/([\w/-]+\.md)", r"[\1](../\1)", text)


_PARTS: dict[str, Callable[[], str]] = {"cli": cli, "options": options, "changelog": changelog}

if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in _PARTS]:
        sys.exit(__doc__)
    print(_PARTS[sys.argv[1]]())
