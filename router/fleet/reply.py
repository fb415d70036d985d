"""What one instance said to a question that all are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from router.instances.instance import Instance


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; or, with `heard` false, a 502 whose body says why there is none."""

    instance: Instance
    status: int
    headers: Mapping[str, str]
    body: bytes
    heard: bool = True

    @property
    def words(self) -> str:
        return self.body[:1000].decode(errors="replace").strip()

    @property
    def complaint(self) -> str:
        return f"answered {self.status}: {self.words[:200]}" if self.heard else self.words

    def parsed(self) -> dict[str, Any] | None:
        """The JSON object that it is, unless it is a refusal or something else."""
        if self.status >= HTTPStatus.BAD_REQUEST:
            return None
        try:
            value = orjson.loads(self.body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def report(self) -> dict[str, Any]:
        one = self.instance
        return {"url": one.url, "role": one.role.value, "status": self.status, "message": self.words}
