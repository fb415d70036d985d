"""A request's JSON, extended without changing what else it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import orjson

from router.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object as it came, and as read. `exact` if it is plain UTF-8 JSON, which may be spliced."""

    raw: bytes
    fields: dict[str, Any]
    exact: bool

    def replacing(self, prefix: str, fields: dict[str, Any]) -> bytes:
        """The body with `fields` in the place of their like, and of those whose names begin with `prefix`.

        Raises BadRequest.
        """
        return self._with(fields, {name for name in self.fields if name.startswith(prefix) or name in fields})

    def extended(self, fields: dict[str, Any]) -> Body:
        """A body that has `fields` in the place of their like. Raises BadRequest."""
        raw = self._with(fields, self.fields.keys() & fields.keys())
        return Body(raw, self.fields | fields, exact=True)

    def _with(self, fields: dict[str, Any], taken: Set[str]) -> bytes:
        if not (taken or fields):
            return self.raw
        if self.exact and not taken:
            return self._spliced(fields)
        # orjson would turn integers past 64 bits into floats, and NaN into null.
        try:
            kept = {name: value for name, value in json.loads(self.raw).items() if name not in taken}
            return json.dumps(kept | fields).encode()
        except (ValueError, RecursionError) as error:
            names = ", ".join(sorted(taken))
            raise BadRequest(f"the body cannot be sent on without its {names}: {error}") from None

    def _spliced(self, fields: dict[str, Any]) -> bytes:
        opened = self.raw.rstrip()[:-1]
        comma = b"," if self.fields else b""
        return opened + comma + orjson.dumps(fields)[1:]


def generation_path(fields: Mapping[str, Any]) -> str:
    """The endpoint that a body of these fields is for."""
    if "messages" in fields:
        return "/v1/chat/completions"
    return "/v1/completions" if "prompt" in fields else "/generate"


def parse(raw: bytes) -> Body | None:
    """The JSON object in `raw`; None if there is none in it.

    SGLang reads NaN and UTF-16, which orjson does not: the standard library reads those.
    """
    for load, exact in ((orjson.loads, True), (json.loads, False)):
        try:
            value = load(raw)
        except (ValueError, RecursionError):
            continue
        return Body(raw, value, exact) if isinstance(value, dict) else None
    return None


def prompts_of(fields: Mapping[str, Any], path: str) -> Any:
    """The prompt of a request or the list of its prompts, as the client gave it; None for a chat."""
    if path == "/generate":
        named = (fields.get(name) for name in ("text", "input_ids", "input_embeds"))
        return next((value for value in named if value is not None), None)
    return fields.get("prompt") if path == "/v1/completions" else None
