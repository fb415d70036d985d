"""What an instance tells of itself at /server_info, as far as a router needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# An instance may say that it does not cut prompts (-1). The cost model has a table of so many entries.
_UNCUT = 1 << 16
# Where it says nothing.
_FORWARD_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Traits:
    """`room_per_sample`: whether each sample of a prompt gets a room of its own there. `page_size` in tokens.

    `keeps_prefixes`: whether it has a prefix cache; stock SGLang gives decode instances none unless told to.
    `tokenizer`: a path on the instance's machine, or a name at a model hub; "" where it is not told.
    `writes_back`: whether its decode peers send it the KV of answers. `instance`: its name in the MemPool, by
    which others fetch from it; "" for one that neither fetches nor is fetched from. `model`: a path or name
    as `tokenizer`; `device`: SGLang's word; `tp`: its ranks; `forward_tokens`: the most new tokens of a
    prefill forward.
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


def traits_of(info: Any) -> Traits:
    """Of a /server_info, whatever came for it."""
    info = info if isinstance(info, dict) else {}
    told = info.get("memserve")
    told = told if isinstance(told, dict) else {}
    named = (info.get("tokenizer_path"), info.get("model_path"))
    return Traits(
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
    )


def _count(told: Any, otherwise: int) -> int:
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else otherwise


def _forward_tokens(told: Any) -> int:
    return _UNCUT if told == -1 else min(_count(told, _FORWARD_TOKENS), _UNCUT)


def _text(told: Any) -> str:
    return told if isinstance(told, str) else ""
