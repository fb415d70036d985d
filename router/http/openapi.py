"""The OpenAPI document of what the router serves, from its list of endpoints."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from typing import Any

from router.http.endpoint import VARIABLE, Access, AnsweredBy, Endpoint
from router.http.schemas import SCHEMAS, body_of, query_of

_JSON = "application/json"
_DESCRIPTION = """\
One HTTP endpoint for a group of SGLang instances. The bodies are SGLang's and the APIs' that it follows: the
fields that the router reads are described, and all others are passed on as they are."""
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


_REFUSALS = {
    "400": "The request is not one that can be served",
    "404": "There is no such thing here",
    "408": "The request did not arrive in time",
    "413": "The body is larger than --max-payload-size",
    "415": "The body is compressed in a way that is unknown here",
    "503": "No instance can serve it now",
}


def document(endpoints: Iterable[Endpoint], *, keyed: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document; `keyed` if clients must present an API key."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operations = {method.lower(): _operation(endpoint, method, keyed) for method in endpoint.methods}
        paths.setdefault(endpoint.canonical, {}).update(operations)
    components: dict[str, Any] = {"schemas": {"Error": _ERROR, **SCHEMAS}}
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
    body = None if method in ("GET", "DELETE") else body_of(endpoint.path)
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", VARIABLE.sub(r"\1", endpoint.path))]),
        "summary": endpoint.summary,
        "description": f"Answered by {endpoint.answered_by}."
        + (f" {_sentence(endpoint.pd_unsupported_reason)}" if endpoint.pd_unsupported_reason else ""),
        "tags": [endpoint.answered_by.name.lower()],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name, _ in VARIABLE.findall(endpoint.path)
        ]
        + query_of(endpoint.path),
        "responses": _responses(endpoint, keyed and endpoint.access >= Access.CLIENT),
    }
    if body is not None:
        kind = "multipart/form-data" if "audio" in endpoint.path else _JSON
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
    if keyed and endpoint.access < Access.CLIENT:
        operation["security"] = []
    return operation


def _responses(endpoint: Endpoint, asks_for_key: bool) -> dict[str, Any]:
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    refusals = {**_REFUSALS, **({"401": "No key, or a wrong one"} if asks_for_key else {})}
    described = {**refusals, "default": "What went wrong"}
    content: dict[str, Any] = {kind: {} for kind in _answers(endpoint)}
    return {
        "200": {"description": endpoint.summary, "content": content},
        **({"202": {"description": "Accepted", "content": content}} if "/workers" in endpoint.path else {}),
        **{
            status: {"description": description, "content": {_JSON: error}}
            for status, description in sorted(described.items())
        },
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
