"""The names that clients give their requests (`rid`), while these run."""

from __future__ import annotations

from collections.abc import Callable, Collection

from router.errors import BadRequest


class NamesInFlight:
    """Refuses a name that a running request has, as an instance does.

    The two halves of a pair must not find out by themselves: whatever breaks off the second request there
    would break off the first one, whose name it is.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, names: Collection[str]) -> None:
        """Raises BadRequest. Call `release` with the same names once their request has ended."""
        taken: set[str] = set()
        for name in names:
            if name in self._taken or name in taken:
                raise BadRequest(f"Duplicate request ID detected: {name:.200}")
            taken.add(name)
        self._taken |= taken

    def owned(self, owns: Callable[[str], bool]) -> list[str]:
        """Those that `owns` says are its own."""
        return [name for name in self._taken if owns(name)]

    def release(self, names: Collection[str]) -> None:
        self._taken.difference_update(names)
