"""What an instance tells of itself at /server_info, as far as a router needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from router.parity import Fit, fit_of


@dataclass(frozen=True, slots=True)
class Traits:
    """`room_per_sample`: whether each sample of a prompt gets a room of its own there. `page_size` in tokens.

    `keeps_prefixes`: whether it has a prefix cache; stock SGLang gives decode instances none unless told to.
    `tokenizer`: a path on the instance's machine, or a name at a model hub; "" where it is not told.
    `writes_back`: whether its decode peers send it the KV of answers. `fit`: what others must have too.
    """

    room_per_sample: bool = False
    page_size: int = 1
    keeps_prefixes: bool = True
    tokenizer: str = ""
    writes_back: bool = False
    fit: Fit = field(default_factory=Fit)


def traits_of(info: Any) -> Traits:
    """Of a /server_info, whatever came for it."""
    info = info if isinstance(info, dict) else {}
    told = info.get("memserve")
    told = told if isinstance(told, dict) else {}
    named = (info.get("tokenizer_path"), info.get("model_path"))
    return Traits(
        room_per_sample=told.get("room_per_sample") is True,
        page_size=_page_size(info.get("page_size")),
        keeps_prefixes=info.get("disable_radix_cache") is not True,
        tokenizer=next((name for name in named if isinstance(name, str) and name), ""),
        writes_back=told.get("caching") == "3",
        fit=fit_of(info),
    )


def _page_size(told: Any) -> int:
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 1
