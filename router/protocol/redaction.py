"""Keys are blanked out of what an instance reports before a client sees it."""

from __future__ import annotations

from typing import Any

_SECRETS = frozenset({"api_key", "admin_api_key", "ssl_keyfile_password"})
_REDACTED = "<redacted>"


def without_secrets(value: Any) -> Any:
    """A /server_info with its keys blanked out. SGLang reports them, also within its launch command."""
    match value:
        case dict():
            secrets = [value[name] for name in _SECRETS & value.keys() if isinstance(value[name], str)]
            return {name: _blanked(name, part, secrets) for name, part in value.items()}
        case list():
            return [without_secrets(part) for part in value]
    return value


def _blanked(name: str, part: Any, secrets: list[str]) -> Any:
    if name in _SECRETS and part is not None:
        return _REDACTED
    if name == "launch_command" and isinstance(part, str):
        for secret in filter(None, secrets):
            part = part.replace(secret, _REDACTED)
    return without_secrets(part)
