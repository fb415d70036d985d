"""What is read again on SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Callable

from router.config.explain import ConfigError

logger = logging.getLogger(__name__)


class Reloads:
    """Parts of a router whose files may be read again while it serves. False where there are none."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, name: str, reload: Callable[[], None]) -> None:
        """`reload` raises ConfigError for a file that does not serve, and leaves things as they were then."""
        self._parts[name] = reload

    def run(self) -> None:
        for name, reload in self._parts.items():
            try:
                reload()
            except ConfigError as error:
                logger.error("%s not read again, so it stays as it was: %s", name, error)
            else:
                logger.info("%s read again", name)
