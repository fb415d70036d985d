"""Which instances a prefix is fetched from, and which part of it each one sends. Imports no torch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

# Each part costs a round trip and a connection: more sources than this are no faster.
MAX_SOURCES = 8


class FetchSource(NamedTuple):
    """An instance that has a prefix of the tokens that `fetch` names.

    Attributes:
        instance: Its name.
        blocks: How many blocks of the tokens it has, from the first on. None: all of them.
        bandwidth: What it can send to this instance, in bytes a second. None: as much as the others.
    """

    instance: str
    blocks: int | None = None
    bandwidth: float | None = None


class FetchPart(NamedTuple):
    """Blocks `[first, stop)` of the tokens, which `instance` is to send."""

    instance: str
    first: int
    stop: int


def require_sources(sources: Sequence[FetchSource]) -> None:
    """Raises ValueError for sources that no fetch takes."""
    names = [source.instance for source in sources]
    if not 1 <= len(names) <= MAX_SOURCES:
        raise ValueError(f"{len(names)} sources: give 1 to {MAX_SOURCES}")
    if len(set(names)) < len(names):
        raise ValueError(f"sources {', '.join(names)}: name each of them once")
    for name, blocks, bandwidth in sources:
        if blocks is not None and blocks < 0:
            raise ValueError(f"source {name} cannot have {blocks} blocks")
        if bandwidth is not None and not 0 < bandwidth < math.inf:
            raise ValueError(f"source {name}: a bandwidth is above 0 and finite, not {bandwidth} B/s")


def parts_of(sources: Sequence[FetchSource], present: int, total: int) -> list[FetchPart]:
    """Cuts blocks `[present, total)` into contiguous parts, in order, of which the last ends soonest.

    Each source sends a single part at most, of what it has. What no source has is in no part.
    """
    by_length = sorted((_reach(source, total), source) for source in sources)
    reaches = [reach for reach, _ in by_length]
    speeds = _speeds([source for _, source in by_length])
    seconds = _least_seconds(reaches, speeds, present)
    parts, first, at = list[FetchPart](), present, float(present)
    for number, ((reach, source), speed) in enumerate(zip(by_length, speeds, strict=True)):
        at = max(at, min(reach, at + speed * seconds))
        is_last = number == len(by_length) - 1
        stop = max(first, reach if is_last else round(at))
        if stop > first:
            parts.append(FetchPart(source.instance, first, stop))
        first = stop
    return parts


def _reach(source: FetchSource, total: int) -> int:
    return total if source.blocks is None else min(source.blocks, total)


def _speeds(sources: Sequence[FetchSource]) -> list[float]:
    """One that nobody knows is taken for the mean of those that are known."""
    known = [source.bandwidth for source in sources if source.bandwidth is not None]
    mean = sum(known) / len(known) if known else 1.0
    return [mean if source.bandwidth is None else source.bandwidth for source in sources]


def _least_seconds(reaches: Sequence[int], speeds: Sequence[float], present: int) -> float:
    """The longest wait: what lies behind the prefix of a source has to come from those with longer ones."""
    befores = [present, *(max(present, reach) for reach in reaches[:-1])]
    return max((reaches[-1] - before) / sum(speeds[number:]) for number, before in enumerate(befores))
