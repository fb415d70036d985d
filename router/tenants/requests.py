"""What instances get of a tenant's requests: its own namespace and names, whatever the client wrote."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from router.errors import BadRequest, Forbidden, shown
from router.prompt.request import session_of
from router.protocol import bootstrap
from router.protocol.body import Body
from router.tenants.tenant import Tenant

SALTED_PATHS = frozenset({
    "/generate", "/v1/completions", "/v1/chat/completions", "/invocations", "/v1/responses",
})  # fmt: skip
"""Where SGLang 0.5.23 takes a `cache_salt`. It keeps the KV of its other endpoints' prompts under none."""

_RESPONSES = "/v1/responses"
# They reach what is not the tenant's: sessions and KV of others, code and addresses within the instances, and
# time beyond the request's own, which no limit would see.
_OPERATORS = (
    "background", "custom_logit_processor", "encoder_urls", "http_worker_ipc", "kv_hints", "lora_id",
    "session_params",
)  # fmt: skip
_MAX_LISTED = 4096
_MAX_CHARS = 1024


def rewritten(body: Body | None, path: str, tenant: Tenant) -> Body:
    """The body that goes to instances, for a path of SALTED_PATHS. Raises BadRequest and Forbidden."""
    if body is None:
        raise BadRequest("a JSON object is wanted")
    fields = body.fields
    if name := next((name for name in _OPERATORS if fields.get(name)), None):
        raise Forbidden(f"{name}: a tenant's request does not have this; it is for who administers")
    forced: dict[str, Any] = {"cache_salt": _salts(fields.get("cache_salt"), tenant)}
    if path == _RESPONSES:
        forced |= _response_names(fields, tenant)
    else:
        forced["rid"] = _names(fields, path, tenant)
    if isinstance(session := fields.get("session_id"), str) and session:
        forced["session_id"] = tenant.scoped(session)
    return body.extended(forced)


def rewritten_abort(body: Body | None, tenant: Tenant) -> dict[str, Any] | None:
    """The fields of an abort by name, under the names that instances know; None: all of the tenant's own.

    Raises BadRequest.
    """
    fields = {} if body is None else body.fields
    if fields.get("abort_all"):
        return None
    rid = fields.get("rid")
    if not isinstance(rid, str) or not rid:
        raise BadRequest(f"rid {shown(rid)}: the name of a request is wanted, or abort_all for all of yours")
    return {"rid": tenant.scoped(rid)}


def routed(fields: Mapping[str, Any], tenant: Tenant) -> dict[str, Any]:
    """The fields to route by: a session of this name is another tenant's other session."""
    session = session_of(fields)
    return {**fields, "session_id": tenant.tag + session} if session else dict(fields)


def _salts(own: Any, tenant: Tenant) -> str | list[str]:
    """A batch may have a list of salts."""
    if isinstance(own, list):
        _check_listed("cache_salt", own)
        return [tenant.salt(_text("cache_salt", salt)) for salt in own]
    return tenant.salt(_text("cache_salt", own))


def _names(fields: dict[str, Any], path: str, tenant: Tenant) -> str | list[str]:
    """Every request has a name, by which alone a tenant aborts it."""
    given = fields.get("rid")
    if isinstance(given, list):
        _check_listed("rid", given)
        return [tenant.scoped(_text("rid", name)) for name in given]
    name = tenant.scoped(_text("rid", given) or uuid.uuid4().hex)
    size = bootstrap.batch_size(fields, path)
    if size is None or size > _MAX_LISTED or bootstrap.several_samples(fields, path):
        return name
    # As SGLang makes them of one name for a batch. Here they are known, should all be aborted.
    return [f"{name}_{number}" for number in range(size)]


def _response_names(fields: Mapping[str, Any], tenant: Tenant) -> dict[str, str]:
    own = _text("request_id", fields.get("request_id")) or f"resp_{uuid.uuid4().hex}"
    # `rid` is not SGLang's here. By it the router knows the name.
    names = {"request_id": tenant.scoped(own), "rid": tenant.scoped(own)}
    if before := _text("previous_response_id", fields.get("previous_response_id")):
        names["previous_response_id"] = tenant.scoped(before)
    return names


def _check_listed(field: str, values: list[Any]) -> None:
    if len(values) > _MAX_LISTED:
        raise BadRequest(f"{field}: a list of {len(values)}; a tenant's batch has {_MAX_LISTED} at most")


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str | None):
        raise BadRequest(f"{field} {shown(value)}: text is wanted, or a list of texts for a batch")
    if value and len(value) > _MAX_CHARS:
        raise BadRequest(f"{field}: {_MAX_CHARS} characters at most are wanted")
    return value or ""
