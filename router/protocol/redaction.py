"""Keys are blanked out of what an instance reports before a client sees it."""

from __future__ import annotations

import re
from typing import Any

# SGLang's own, those of its plug-ins, and whatever else is named so. `extra_key` and the like are no secrets.
_SECRET = re.compile(
    r"(^|[_-])(api_?key|access_?key|private_?key|token|password|passwd|secret(_?key)?|credentials?)$"
    r"|keyfile_password$",
    re.IGNORECASE,
)
_REDACTED = "<redacted>"


def without_secrets(value: Any) -> Any:
    """A /server_info with its keys blanked out. SGLang reports them, also within its launch command."""
    match value:
        case dict():
            secrets = [part for name, part in value.items() if _is_secret(name) and isinstance(part, str)]
            return {name: _blanked(name, part, secrets) for name, part in value.items()}
        case list():
            return [without_secrets(part) for part in value]
    return value


def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def _blanked(name: str, part: Any, secrets: list[str]) -> Any:
    if _is_secret(name) and not isinstance(part, int | float | None):
        return _REDACTED
    if name == "launch_command" and isinstance(part, str):
        for secret in filter(None, secrets):
            part = part.replace(secret, _REDACTED)
    return without_secrets(part)
