"""The fields of a request that say what to fetch before prefill; docs/caching.md has their form."""

from __future__ import annotations

from typing import Any

from router.cost.estimate import Fetch
from router.instances.instance import Instance

_ACTION = "memserve.fetch"


def hint_fields(fields: dict[str, Any], path: str, fetch: Fetch, fetcher: Instance) -> dict[str, Any]:
    """The fields that replace their like in the body `fields`.

    Empty where the client has a hint of its own, or fields that no hint can be added to.
    """
    source = fetch.source.server_info.instance if fetch.source.server_info else ""
    payload = {
        "from": source,
        "deadline_ms": round(fetch.deadline_ms, 3),
        "role": fetcher.role.value,
        "tokens": fetch.tokens,
    }
    if path == "/generate":
        return _with_action(fields.get("kv_hints"), fields.get("sampling_params"), payload)
    given = fields.get("custom_params") or {}
    if not isinstance(given, dict) or _ACTION in given:
        return {}
    return {"custom_params": {**given, _ACTION: payload}}


def _with_action(envelope: Any, sampling: Any, payload: dict[str, Any]) -> dict[str, Any]:
    """`kv_hints` with another action; a batch of a single prompt may have it in a list."""
    custom = sampling.get("custom_params") if isinstance(sampling, dict) else None
    if isinstance(custom, dict) and _ACTION in custom:
        return {}
    if envelope is None:
        envelope = {"protocol_version": "1", "message_id": "1"}
    listed = isinstance(envelope, list) and len(envelope) == 1
    given = envelope[0] if listed else envelope
    actions = given.get("actions", []) if isinstance(given, dict) else None
    if not isinstance(actions, list) or any(_type(action) in (_ACTION, None) for action in actions):
        return {}
    action = {"action_id": _ACTION, "action_version": "1", "action_type": _ACTION, "payload": payload}
    hinted = {**given, "actions": [*actions, action]}
    return {"kv_hints": [hinted] if listed else hinted}


def _type(action: Any) -> Any:
    return action.get("action_type") if isinstance(action, dict) else None
