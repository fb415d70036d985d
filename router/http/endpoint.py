"""An endpoint: its path, what answers it, and the handler."""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import NamedTuple

from aiohttp.typedefs import Handler

VARIABLE = re.compile(r"{(\w+)(:[^}]*)?}")


class AnsweredBy(StrEnum):
    PAIR = "a prefill/decode pair or a colocated instance"
    ANY_INSTANCE = "any healthy instance"
    ALL_INSTANCES = "all instances at once"
    COLOCATED = "a colocated instance"
    HOLDER = "the colocated instance that holds it"
    ROUTER = "the router"


class Access(IntEnum):
    """Who may ask. Each may ask what those before it may."""

    PUBLIC = 0
    """Anybody, as at SGLang's server, so that probes need no key."""
    METRICS = 1
    """Anybody, or with --metrics-require-key who administers."""
    CLIENT = 2
    """Who has a key of the router's."""
    TENANT = 3
    """A tenant, of what is its own; beside tenants, who administers."""
    ADMIN = 4
    """Who administers: changes what serves, or sees what others asked."""


class Endpoint(NamedTuple):
    """`path` is aiohttp's pattern. `pd_unsupported_reason`: why a pair cannot answer what others can."""

    methods: tuple[str, ...]
    path: str
    answered_by: AnsweredBy
    summary: str
    handler: Handler
    access: Access
    pd_unsupported_reason: str = ""

    @property
    def canonical(self) -> str:
        """Its path without patterns, as aiohttp names the resource and OpenAPI the path."""
        return VARIABLE.sub(r"{\1}", self.path)
