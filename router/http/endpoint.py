"""An endpoint: its path, what answers it, and the handler."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from aiohttp.typedefs import Handler


class AnsweredBy(StrEnum):
    PAIR = "a prefill/decode pair or a colocated instance"
    ANY_INSTANCE = "any healthy instance"
    ALL_INSTANCES = "all instances at once"
    COLOCATED = "a colocated instance"
    HOLDER = "the colocated instance that holds it"
    ROUTER = "the router"


class Endpoint(NamedTuple):
    """`path` is aiohttp's pattern. `pd_unsupported_reason`: why a pair cannot answer, where only others can.

    `public` endpoints are answered without an API key, as by SGLang, so that probes need none.
    """

    methods: tuple[str, ...]
    path: str
    answered_by: AnsweredBy
    summary: str
    handler: Handler
    pd_unsupported_reason: str = ""
    public: bool = False
