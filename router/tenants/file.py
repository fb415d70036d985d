"""The file of tenants: read, and checked before any of it counts."""

from __future__ import annotations

import hashlib
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from router.config.explain import ConfigError, Location, SettingsModel
from router.config.fields import Count
from router.config.sources import as_key, read_file

SHORTEST_SECRET = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAKE_SECRET = "make one with `openssl rand -hex 32`"


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 letters, digits, dots, dashes and underscores")
    return value


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError(
            "a key's digest is sha256: and 64 hexadecimal digits; `memserve tenant-key` makes both"
        )
    return value


def key_digest(key: str) -> str:
    """As the file names the key."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def check_secret(value: str) -> str:
    if value and len(value) < SHORTEST_SECRET:
        raise ValueError(f"a secret has {SHORTEST_SECRET} characters or more: {MAKE_SECRET}")
    return value


Name = Annotated[str, AfterValidator(_name)]
Digests = Annotated[tuple[Annotated[str, AfterValidator(_digest)], ...], Field(min_length=1)]


class TenantEntry(BaseModel):
    """What the file says of one tenant. A limit that is absent is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    keys: Digests
    group: Name | None = None
    requests_in_flight: Count | None = None
    tokens_per_minute: Count | None = None
    prompt_tokens: Count | None = None

    @property
    def sharing_group(self) -> str:
        """Those who share KV; by default the tenant alone."""
        return self.group or self.name


class TenantsFile(SettingsModel):
    secret: Annotated[str, AfterValidator(check_secret)] = Field("", repr=False)
    tenants: tuple[TenantEntry, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = Counter(entry.name for entry in self.tenants)
        if (name := _repeated(names)) is not None:
            raise ConfigError(f"tenants: name: {name!r}: two tenants have this name")
        digests = Counter(digest for entry in self.tenants for digest in entry.keys)
        if (digest := _repeated(digests)) is not None:
            raise ConfigError(f"tenants: keys: {digest!r}: this key is there twice; each names one tenant")
        alone = {entry.name for entry in self.tenants if entry.group is None}
        for entry in self.tenants:
            # A mistake here would share KV that somebody believes to be theirs alone.
            if entry.group in alone and entry.group != entry.name:
                raise ConfigError(
                    f"tenants: group: {entry.group!r}: a tenant of this name shares with nobody; "
                    "give it this group too, or choose another name for the group"
                )
        return self


def read(path: Path) -> TenantsFile:
    """Raises ConfigError, which names the file, the field and its value; never a secret or a key."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    values = read_file(path, list(TenantsFile.model_fields))
    _check_mode(path, mode, secret=bool(values.get("secret")))
    written = as_key(path)

    def shown(location: Location, value: Any) -> str:
        # Who puts the key itself where its digest belongs must not find it in a log.
        return written(location, None if "keys" in location else value)

    try:
        return TenantsFile.model_validate(values, context={"shown": shown})
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _check_mode(path: Path, mode: int, *, secret: bool) -> None:
    shown = f"{path}: mode {stat.S_IMODE(mode):04o}"
    if mode & 0o022:
        raise ConfigError(f"{shown}: others may write it, and so make themselves tenants: chmod go-w {path}")
    if secret and mode & 0o077:
        raise ConfigError(f"{shown}: it holds a secret, which others may read: chmod 600 {path}")


def _repeated(counts: Counter[str]) -> str | None:
    return next((name for name, count in counts.items() if count > 1), None)
