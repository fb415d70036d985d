"""Sizes as users write them, and how many blocks a medium gets of them. Imports no torch."""

import re

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", re.IGNORECASE)
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")
_BLOCKS = re.compile(r"([0-9]+) ?blocks?")


def blocks_of_size(size: str | int, block_bytes: int, available_bytes: int) -> int:
    """Whole blocks in `size`, at least one: "8GiB", "500 MB" (both in powers of 1,024), "1000000" bytes,
    "25%" of what is available, "4096 blocks", or a number of blocks that is no string.

    Raises ValueError for what is none of these, and where `available_bytes` are not enough for it.
    """
    text = size.strip() if isinstance(size, str) else f"{size} blocks"
    if match := _BLOCKS.fullmatch(text):
        blocks = int(match[1])
    elif match := _SHARE.fullmatch(text):
        blocks = int(available_bytes * min(float(match[1]), 100.0) / 100) // block_bytes
    elif match := _BYTES.fullmatch(text):
        blocks = _bytes(match) // block_bytes
    else:
        raise ValueError(f'{text!r} is not a size: write "8GiB", "25%" or "4096 blocks"')
    if blocks * block_bytes > available_bytes:
        raise ValueError(
            f"{text} is {_readable(blocks * block_bytes)} in blocks of {_readable(block_bytes)}, "
            f"but {_readable(available_bytes)} are available"
        )
    if not blocks:
        raise ValueError(f"{text} is less than one block of {_readable(block_bytes)}")
    return blocks


def bytes_of_size(size: str) -> int:
    """ "8GiB", "500 MB" (both in powers of 1,024), "1000000". Raises ValueError for what is none of these."""
    match = _BYTES.fullmatch(size.strip())
    if match is None:
        raise ValueError(f'{size!r} is not a size: write "8GiB", "500 MB" or a number of bytes')
    return _bytes(match)


def _bytes(match: re.Match[str]) -> int:
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _readable(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
