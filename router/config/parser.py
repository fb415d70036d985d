"""argparse that takes no abbreviations, and whose errors are one line that says what to do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from router.config.explain import did_you_mean


class Parser(argparse.ArgumentParser):
    """`passed_on`: what to say of a flag that is not known, and is like none that is."""

    def __init__(self, *, passed_on: str = "", **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self._passed_on = passed_on

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses what it does not know itself: a command's parser knows its flags, and its hint."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Names the nearest of many choices instead of all of them."""
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(str(value), map(str, action.choices))
            if near:
                raise argparse.ArgumentError(action, f"invalid choice: {value!r}{near}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Exits with status 2, without the usage, which would bury the message."""
        self.exit(2, f"{self.prog}: {message}\n")

    def _unknown(self, words: Sequence[str]) -> str:
        flag = next((word for word in words if word.startswith("-")), None)
        if flag is None:
            return f"{words[0]}: there is nothing that takes this"
        name = flag.partition("=")[0]
        if hint := did_you_mean(name, self._option_string_actions):
            return f"{name} is no flag here{hint}"
        return f"{name} is no flag here: {self._passed_on or f'see {self.prog} --help'}"
