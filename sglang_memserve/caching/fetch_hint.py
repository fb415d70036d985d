"""The hint that a request carries: another instance has KV of its prompt."""

from typing import Annotated, Any

import msgspec

ACTION = "memserve.fetch"


class FetchHint(msgspec.Struct, frozen=True):
    """Instance `source` has KV of the prompt. The request may wait `deadline_ms` for it.

    `role`: of the instance that is to fetch; None: whichever gets the request. `tokens`: how many of the
    prompt's tokens the source has in HBM or DRAM; None: not known, and the source sends what is in its DRAM,
    without a question to its scheduler.
    """

    source: str = msgspec.field(name="from")
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] = 1000.0
    role: str | None = None
    tokens: Annotated[int, msgspec.Meta(gt=0)] | None = None


def fetch_hint_of(req: Any) -> FetchHint | None:
    """From an action of `kv_hints`, or else from `custom_params`.

    Raises msgspec.ValidationError for a hint that cannot be read.
    """
    envelope, custom = req.kv_hints, req.sampling_params.custom_params
    for action in envelope.actions if envelope is not None else ():
        if action.action_type == ACTION:
            return msgspec.convert(action.payload, FetchHint)
    if isinstance(custom, dict) and ACTION in custom:
        return msgspec.convert(custom[ACTION], FetchHint)
    return None


def request_key(req: Any) -> int | str:
    """The request's room where it has one, else its own id."""
    key: int | str = req.bootstrap_room or req.rid
    return key
