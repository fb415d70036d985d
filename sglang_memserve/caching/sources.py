"""Where the tokens of a prompt came from, counted once its request has ended."""

from typing import Any

from sglang_memserve.caching.counters import Counters
from sglang_memserve.request_state import Brought


def count(counters: Counters, req: Any, decodes: bool) -> None:
    """Each token of the prompt under one name.

    `decodes`: what was not here was computed elsewhere, and `req.cached_tokens` tells of there.
    """
    here = getattr(req, "memserve_here", 0) if decodes else req.cached_tokens
    brought = getattr(req, "memserve_brought", None) or Brought()
    # The end of it may have been evicted before the request was scheduled.
    left = max(0, here - brought.start)
    dram = min(brought.dram, left)
    fetched = min(brought.fetched, left - dram)
    counters.add("prompt_tokens_from_hbm", here - fetched - dram)
    counters.add("prompt_tokens_from_dram", dram)
    counters.add("prompt_tokens_fetched", fetched)
    if fetched:
        counters.add("fetched_tokens_from", fetched, source=brought.source)
    rest = "prompt_tokens_received" if decodes else "prompt_tokens_computed"
    counters.add(rest, len(req.origin_input_ids) - here)
