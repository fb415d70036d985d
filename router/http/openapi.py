"""The OpenAPI document of what the router serves, from its list of endpoints."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from typing import Any

from router.http.endpoint import VARIABLE, Access, AnsweredBy, Endpoint

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


def document(endpoints: Iterable[Endpoint], *, keyed: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document; `keyed` if clients must present an API key."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operations = {method.lower(): _operation(endpoint, method, keyed) for method in endpoint.methods}
        paths.setdefault(endpoint.canonical, {}).update(operations)
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


def _operation(endpoint: Endpoint, method: str, keyed: bool) -> dict[str, Any]:
    reads = method not in ("GET", "DELETE")
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", VARIABLE.sub(r"\1", endpoint.path))]),
        "summary": endpoint.summary,
        "description": f"Answered by {endpoint.answered_by}."
        + (f" {_sentence(endpoint.pd_unsupported_reason)}" if endpoint.pd_unsupported_reason else ""),
        "tags": [endpoint.answered_by.name.lower()],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name, _ in VARIABLE.findall(endpoint.path)
        ],
        "responses": _responses(endpoint),
    }
    if reads:
        kind = "multipart/form-data" if "audio" in endpoint.path else _JSON
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": {"type": "object"}}}}
    if keyed and endpoint.access < Access.CLIENT:
        operation["security"] = []
    return operation


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {
        "200": {"description": endpoint.summary, "content": {kind: {} for kind in _answers(endpoint)}},
        "default": {"description": "What went wrong", "content": {_JSON: error}},
    }


def _answers(endpoint: Endpoint) -> tuple[str, ...]:
    match endpoint.answered_by:
        case AnsweredBy.PAIR:
            return (_JSON, "text/event-stream")
        case AnsweredBy.COLOCATED:
            return ("*/*",)
    return ("text/plain",) if endpoint.path == "/metrics" else (_JSON,)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
