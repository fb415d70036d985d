"""What an instance tells of itself at /server_info, as far as a router needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from router.instances.compatibility import Fit, fit_of

_MOST_ENDPOINT_CHARS = 256
_TRANSPORTS = ("tcp://", "ipc://")


@dataclass(frozen=True, slots=True)
class FeedAt:
    """Where an instance tells of its caches, and the number of its start."""

    endpoint: str
    incarnation: int


# An instance may say that it does not cut prompts (-1). The cost model has a table of so many entries.
_UNCUT = 1 << 16
# Where it says nothing.
_FORWARD_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """`room_per_sample`: whether each sample of a prompt gets a room of its own there. `page_size` in tokens.

    `keeps_prefixes`: whether it has a prefix cache; stock SGLang gives decode instances none unless told to.
    `tokenizer`: a path on the instance's machine, or a name at a model hub; "" where it is not told.
    `writes_back`: whether its decode peers send it the KV of answers. `instance`: its name in the MemPool, by
    which others fetch from it; "" for one that neither fetches nor is fetched from. `model`: a path or name
    as `tokenizer`; `device`: SGLang's word; `tp`: its ranks; `forward_tokens`: the most new tokens of a
    prefill forward. `feed`: None where it has none. `fit`: what others must have too.
    """

    room_per_sample: bool = False
    page_size: int = 1
    keeps_prefixes: bool = True
    tokenizer: str = ""
    writes_back: bool = False
    instance: str = ""
    model: str = ""
    device: str = ""
    tp: int = 1
    forward_tokens: int = _FORWARD_TOKENS
    feed: FeedAt | None = None
    fit: Fit = field(default_factory=Fit)


def parse_server_info(info: Any) -> ServerInfo:
    """Of a /server_info, whatever came for it."""
    info = info if isinstance(info, dict) else {}
    told = info.get("memserve")
    told = told if isinstance(told, dict) else {}
    named = (info.get("tokenizer_path"), info.get("model_path"))
    return ServerInfo(
        room_per_sample=told.get("room_per_sample") is True,
        page_size=_count(info.get("page_size"), 1),
        keeps_prefixes=info.get("disable_radix_cache") is not True,
        tokenizer=next((name for name in named if isinstance(name, str) and name), ""),
        writes_back=told.get("caching") == "3",
        instance=_text(told.get("instance")),
        model=_text(info.get("model_path")),
        device=_text(info.get("device")),
        tp=_count(info.get("tp_size"), 1),
        forward_tokens=_forward_tokens(info.get("chunked_prefill_size")),
        feed=_feed(told.get("feed")),
        fit=fit_of(info),
    )


def _feed(told: Any) -> FeedAt | None:
    told = told if isinstance(told, dict) else {}
    endpoint, incarnation = told.get("endpoint"), told.get("incarnation")
    if not isinstance(endpoint, str) or not endpoint.startswith(_TRANSPORTS):
        return None
    if len(endpoint) > _MOST_ENDPOINT_CHARS or not _is_number(incarnation) or not 0 <= incarnation < 1 << 63:
        return None
    return FeedAt(endpoint, incarnation)


def _count(told: Any, otherwise: int) -> int:
    return told if _is_number(told) and told > 0 else otherwise


def _forward_tokens(told: Any) -> int:
    return _UNCUT if told == -1 else min(_count(told, _FORWARD_TOKENS), _UNCUT)


def _text(told: Any) -> str:
    return told if isinstance(told, str) else ""


def _is_number(told: Any) -> bool:
    return isinstance(told, int) and not isinstance(told, bool)
