"""Where the tokens of a prompt came from, counted once its request has ended."""

from sglang_memserve.caching.counters import Counters
from sglang_memserve.request_state import LoadedPrefix


def count_prompt_tokens(
    counters: Counters, *, prompt: int, cached: int, loaded: LoadedPrefix | None, is_decode: bool
) -> None:
    """Counts each of the prompt's tokens under one name.

    `cached`: how many this instance's tree had when the request was scheduled. The others were computed here,
    or, where `is_decode`, received from prefill.
    """
    loaded = loaded or LoadedPrefix()
    # Some of what was loaded may have been evicted before the request was scheduled.
    usable = max(0, cached - loaded.start)
    from_dram = min(loaded.from_dram, usable)
    fetched = min(loaded.fetched, usable - from_dram)
    counters.add("prompt_tokens_from_hbm", cached - fetched - from_dram)
    counters.add("prompt_tokens_from_dram", from_dram)
    counters.add("prompt_tokens_fetched", fetched)
    if fetched:
        counters.add("fetched_tokens_from", fetched, source=loaded.source)
    counters.add("prompt_tokens_received" if is_decode else "prompt_tokens_computed", prompt - cached)
