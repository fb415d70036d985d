"""The fields by which the prefill and the decode half of a request find each other.

A room names the KV transfer of one request. SGLang takes it as int64; 0 is a warm-up's.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from typing import Any

from router.errors import shown
from router.protocol.body import prompts_of

BOOTSTRAP_PREFIX = "bootstrap_"
# Results over prompt and answer, of which each half has only its own.
_SPLIT_RESULTS = ("return_hidden_states", "return_routed_experts", "return_indexer_topk")


def new_rooms(count: int, draw: Callable[[int], bytes] = secrets.token_bytes) -> list[int]:
    """`count` names that no other request has. `draw` makes so many random bytes."""
    drawn = memoryview(draw(8 * count)).cast("Q")
    return [(number >> 1) or 1 for number in drawn]


def bootstrap_fields(
    fields: dict[str, Any],
    path: str,
    host: str,
    port: int | None,
    draw: Callable[[int], bytes] = secrets.token_bytes,
) -> dict[str, Any]:
    """The fields that join both halves of a request: `host` and `port` are those of the prefill instance's
    bootstrap server. A batch gets lists, one entry a prompt.
    """
    size = batch_size(fields, path)
    count = 1 if size is None else size
    batch: dict[str, list[Any]] = {
        "bootstrap_host": [host] * count,
        "bootstrap_port": [port] * count,
        "bootstrap_room": new_rooms(count, draw),
    }
    return {name: values[0] for name, values in batch.items()} if size is None else batch


def without_echo(refusal: bytes, added: dict[str, Any]) -> bytes:
    """SGLang's refusal quotes the body. Without the fields that were `added`, it quotes the client's own."""
    if not added:
        return refusal
    echo = ", ".join(f"{name!r}: {value!r}" for name, value in added.items()).encode()
    return refusal.replace(b", " + echo, b"").replace(echo + b", ", b"").replace(echo, b"")


def batch_size(fields: dict[str, Any], path: str) -> int | None:
    """The number of prompts of a batch; None for a single request."""
    prompts = prompts_of(fields, path)
    if not isinstance(prompts, list) or not prompts:
        return None
    first = prompts[0]
    embedding = isinstance(first, list) and bool(first) and isinstance(first[0], float)
    return None if embedding or isinstance(first, int) else len(prompts)


def request_id(fields: dict[str, Any], path: str, *, new: bool) -> str | None:
    """The id by which the request can be aborted: the client's own, or a `new` one.

    None if SGLang makes several requests of it, with ids of its own.
    """
    if batch_size(fields, path) is not None or several_samples(fields, path):
        return None
    given = fields.get("rid")
    if given is None:
        return uuid.uuid4().hex if new else None
    return given if isinstance(given, str) and given else None


def given_ids(fields: dict[str, Any]) -> list[str]:
    """The ids by which the client may abort the request, or parts of it."""
    given = fields.get("rid")
    names = given if isinstance(given, list) else [given]
    return [name for name in names if isinstance(name, str) and name]


def pd_unsupported_reason(fields: dict[str, Any], path: str, limit: int) -> str | None:
    """Why no prefill/decode pair can serve the request, or None. A pair takes at most `limit` prompts."""
    if name := next((name for name in _SPLIT_RESULTS if _wanted(fields.get(name))), None):
        return (
            f"{name}: in a prefill/decode pair each half has its own tokens' only; use a colocated instance"
        )
    size = batch_size(fields, path) or 0
    if size > limit:
        return f"{size} prompts in a batch: a prefill/decode pair takes {limit} (--max-batch-prompts)"
    return None


def several_samples(fields: dict[str, Any], path: str) -> str | None:
    """The `n` of the request, unless it is surely 1. SGLang turns "2" and 2.0 into 2."""
    n = _samples(fields, path)
    return None if n in (None, 1, "1") else shown(n)


def _wanted(value: Any) -> bool:
    return any(value) if isinstance(value, list) else bool(value)


def _samples(fields: dict[str, Any], path: str) -> Any:
    if path != "/generate":
        return fields.get("n")
    params = fields.get("sampling_params")
    first = params[0] if isinstance(params, list) and params else params
    return first.get("n") if isinstance(first, dict) else None
