"""Keys of token prefixes, for tables that do not keep the token ids."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xxhash

TokenIds = npt.NDArray[np.int32]


def prefix_keys(tokens: TokenIds, namespace: str, page: int) -> Iterator[tuple[int, bytes]]:
    """Yields length and key of each prefix of `tokens` in whole pages, from the empty one on."""
    state = xxhash.xxh3_128(namespace.encode() + b"\0")
    yield 0, state.digest()
    data = memoryview(tokens.tobytes())
    size = tokens.itemsize
    for stop in range(page, len(tokens) + 1, page):
        state.update(data[(stop - page) * size : stop * size])
        yield stop, state.digest()
