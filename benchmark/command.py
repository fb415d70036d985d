"""The command line that the benchmarks of scripts/ have in common."""

import argparse


def parser(about: str | None, *, rounds: int, full: str | None = None) -> argparse.ArgumentParser:
    """With --json, --rounds, and --full where `full` says what it means. Callers add their own flags."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", action="store_true", help="end with one JSON object")
    if full is not None:
        made.add_argument("--full", action="store_true", help=full)
    made.add_argument("--rounds", type=int, default=rounds, help=f"(default: {rounds})")
    return made
