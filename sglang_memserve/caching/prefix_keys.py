"""What prefixes of token ids are known by, where the ids themselves are not kept."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xxhash

Ids = npt.NDArray[np.int32]


def prefix_keys(tokens: Ids, namespace: str, page: int) -> Iterator[tuple[int, bytes]]:
    """The length and the key of each prefix of `tokens` in whole pages, the empty one first."""
    state = xxhash.xxh3_128(namespace.encode() + b"\0")
    yield 0, state.digest()
    data = memoryview(tokens.tobytes())
    size = tokens.itemsize
    for stop in range(page, len(tokens) + 1, page):
        state.update(data[(stop - page) * size : stop * size])
        yield stop, state.digest()
