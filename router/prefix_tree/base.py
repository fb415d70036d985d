"""What policies see of the prompt tree."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from router.instances.instance import Instance
from router.prompt.request import TokenArray


class Cached(NamedTuple):
    """How many of a prompt's first tokens an instance has in either medium, and how many of these in HBM."""

    tokens: int = 0
    hbm: int = 0


NOTHING = Cached()


class PromptTree(Protocol):
    """Tokens are int32 `[n]`, from the beginning of a prompt.

    What an instance had cached before its `cache_epoch` grew does not count.
    """

    def match(self, tokens: TokenArray, namespace: str) -> dict[Instance, Cached]:
        """What each instance has, in whole pages of its own. Instances that have nothing are not in it.

        The last of `tokens` is never counted: an engine computes at least that one.
        """
        ...

    def stored(self, instance: Instance, tokens: TokenArray, namespace: str) -> None:
        """By its answer, the instance has these tokens, as far as they fill whole pages."""
        ...

    def sizes(self) -> dict[str, int]:
        """How large the tree is, for metrics: counts by name."""
        ...
