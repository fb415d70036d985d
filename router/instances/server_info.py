"""What an instance reports of itself at /server_info, as far as a router needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mempool.caching_mode import CachingMode

_MAX_ENDPOINT_CHARS = 256
_MAX_TEXT_CHARS = 128
_TRANSPORTS = ("tcp://", "ipc://")
# An instance may report that it does not cut prompts (-1). The cost model has a table of so many entries.
_UNCUT = 1 << 16
# SGLang's --chunked-prefill-size, where the instance does not report it.
_FORWARD_TOKENS = 8192
# The longest prompt, where the instance does not report it.
_PROMPT_TOKENS = 1 << 17


@dataclass(frozen=True, slots=True)
class FeedAt:
    """The endpoint at which an instance publishes the events of its caches, and its incarnation."""

    endpoint: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class CompatibilityFields:
    """What decides whether an instance fits the others; None where it does not report it.

    `role`: as SGLang's --disaggregation-mode, "colocated" for "null". `model`, `tokenizer` and `template` are
    digests. `kv_dtype`: the dtype that KV is kept in; `kv_flag`: SGLang's --kv-cache-dtype, of an instance
    that does not report `kv_dtype`. `page_size` in tokens; `tp_size` in ranks.
    """

    role: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    template: str | None = None
    page_size: int | None = None
    kv_dtype: str | None = None
    kv_flag: str | None = None
    tp_size: int | None = None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The facts of one instance; the defaults stand for what it does not report.

    `room_per_sample`: whether each sample of a prompt gets a room of its own there. `page_size` in tokens.
    `keeps_prefixes`: whether it has a prefix cache; stock SGLang gives decode instances none by default.
    `tokenizer`: a path on the instance's machine, or a name at a model hub; "" if unknown. `writes_back`:
    whether its decode peers send it the KV of answers. `instance`: its name in the MemPool, by which others
    fetch from it; "" for one that neither fetches nor is fetched from. `model`: a path or name as
    `tokenizer`; `device`: SGLang's word; `tp`: its ranks; `forward_tokens`: the most new tokens of a prefill
    forward; `max_prompt_tokens`: the longest prompt that it takes. `feed`: None if it publishes no events.
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
    max_prompt_tokens: int = _PROMPT_TOKENS
    feed: FeedAt | None = None
    compatibility: CompatibilityFields = field(default_factory=CompatibilityFields)


def parse_server_info(info: Any) -> ServerInfo:
    """From the JSON value of a /server_info answer. It never raises: a value of a wrong type is ignored."""
    info = _dict(info)
    extension = _dict(info.get("memserve"))
    page_size, tp = _int(info.get("page_size")), _int(info.get("tp_size"))
    return ServerInfo(
        room_per_sample=extension.get("room_per_sample") is True,
        page_size=_positive(page_size, 1),
        keeps_prefixes=info.get("disable_radix_cache") is not True,
        tokenizer=_text(info.get("tokenizer_path")) or _text(info.get("model_path")),
        writes_back=extension.get("caching") == CachingMode.WRITE_BACK,
        instance=_text(extension.get("instance")),
        model=_text(info.get("model_path")),
        device=_text(info.get("device")),
        tp=_positive(tp, 1),
        forward_tokens=_forward_tokens(_int(info.get("chunked_prefill_size"))),
        max_prompt_tokens=_positive(
            _int(info.get("max_req_input_len")), _positive(_int(info.get("context_length")), _PROMPT_TOKENS)
        ),
        feed=_feed(_dict(extension.get("feed"))),
        compatibility=_compatibility(info, extension, page_size, tp),
    )


def _compatibility(
    info: Mapping[str, Any], extension: Mapping[str, Any], page_size: int | None, tp: int | None
) -> CompatibilityFields:
    mode, kv_dtype = _short(info.get("disaggregation_mode")), _short(extension.get("kv_dtype"))
    return CompatibilityFields(
        role="colocated" if mode == "null" else mode,
        model=_short(extension.get("model")),
        tokenizer=_short(extension.get("tokenizer")),
        template=_short(extension.get("template")),
        page_size=page_size,
        kv_dtype=kv_dtype,
        kv_flag=None if kv_dtype else _short(info.get("kv_cache_dtype")),
        tp_size=tp,
    )


def _feed(feed: Mapping[str, Any]) -> FeedAt | None:
    endpoint, incarnation = _text(feed.get("endpoint")), _int(feed.get("incarnation"))
    if not endpoint.startswith(_TRANSPORTS) or len(endpoint) > _MAX_ENDPOINT_CHARS:
        return None
    if incarnation is None or not 0 <= incarnation < 1 << 63:
        return None
    return FeedAt(endpoint, incarnation)


def _forward_tokens(size: int | None) -> int:
    return _UNCUT if size == -1 else min(_positive(size, _FORWARD_TOKENS), _UNCUT)


def _positive(number: int | None, otherwise: int) -> int:
    return number if number is not None and number > 0 else otherwise


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _short(value: Any) -> str | None:
    return _text(value)[:_MAX_TEXT_CHARS] or None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
