"""Failures of the hand-over between a request's two halves, in SGLang's words and ours.

Either half may report one, and often reports the other's death: the words say whose failure it is.
"""

from __future__ import annotations

import re

_FAILED = re.compile(rb"(?:Prefill|Decode) (?:bootstrap|handshake|transfer) failed for request")
_NAMED = re.compile(rb"\b(prefill|decode) (?:instance|server)\b", re.IGNORECASE)
_ABORTED_BY = re.compile(rb"\baborted by the (?:prefill|decode) instance\b")


def is_failed_handover(body: bytes) -> bool:
    return _FAILED.search(body) is not None


def is_abort(body: bytes) -> bool:
    """Whether the other half ended the request on purpose: that half says why, if anything failed."""
    return _ABORTED_BY.search(body) is not None


def failed_role(body: bytes) -> str | None:
    """The role that a failed hand-over names first, "prefill" or "decode"; None where it names none."""
    named = _NAMED.search(body)
    return None if named is None else named[1].decode().lower()
