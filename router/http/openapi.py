"""The OpenAPI document of what the router serves, from its list of endpoints."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

from router.http.endpoints import ENDPOINTS, Endpoint, Who

_VARIABLE = re.compile(r"{(\w+)(:[^}]*)?}")
_JSON = "application/json"
_DESCRIPTION = """\
One HTTP endpoint for a group of SGLang instances. The bodies are SGLang's and the APIs' that it follows: the
router passes them on as they are, so they are not repeated here."""
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "integer", "description": "the HTTP status"},
            },
        }
    },
}


def document(*, keyed: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document; `keyed` if clients must present an API key."""
    paths: dict[str, dict[str, Any]] = {}
    for one in ENDPOINTS:
        operations = {method.lower(): _operation(one, method, keyed) for method in one.methods}
        paths.setdefault(_VARIABLE.sub(r"{\1}", one.path), {}).update(operations)
    components: dict[str, Any] = {"schemas": {"Error": _ERROR}}
    if keyed:
        components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MemServe router",
            "version": importlib.metadata.version("sglang-memserve"),
            "description": _DESCRIPTION,
        },
        "paths": paths,
        "components": components,
        **({"security": [{"apiKey": []}]} if keyed else {}),
    }


def _operation(one: Endpoint, method: str, keyed: bool) -> dict[str, Any]:
    reads = method not in ("GET", "DELETE")
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", _VARIABLE.sub(r"\1", one.path))]),
        "summary": one.summary,
        "description": f"Answered by {one.who}."
        + (f" {_sentence(one.pd_unsupported_reason)}" if one.pd_unsupported_reason else ""),
        "tags": [one.who.name.lower()],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name, _ in _VARIABLE.findall(one.path)
        ],
        "responses": _responses(one),
    }
    if reads:
        kind = "multipart/form-data" if "audio" in one.path else _JSON
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": {"type": "object"}}}}
    if keyed and one.public:
        operation["security"] = []
    return operation


def _responses(one: Endpoint) -> dict[str, Any]:
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {
        "200": {"description": one.summary, "content": {kind: {} for kind in _answers(one)}},
        "default": {"description": "What went wrong", "content": {_JSON: error}},
    }


def _answers(one: Endpoint) -> tuple[str, ...]:
    match one.who:
        case Who.PAIR:
            return (_JSON, "text/event-stream")
        case Who.COLOCATED:
            return ("*/*",)
    return ("text/plain",) if one.path == "/metrics" else (_JSON,)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
