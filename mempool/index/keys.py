"""Token ids as the tree's keys: little-endian int32 bytes."""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

TOKEN_BYTES = 4
Tokens = Sequence[int] | npt.NDArray[np.integer]


def key_of(tokens: Tokens) -> bytes:
    """The tokens of `token_array`, with its errors, as a key."""
    return token_array(tokens).tobytes()


def token_array(tokens: Tokens) -> npt.NDArray[np.int32]:
    """Little-endian int32 `[n]`: the tokens' own memory where they are that already.

    Raises ValueError for a token that is negative or does not fit in int32, TypeError for what is no int.
    Fast for numpy arrays and `array('q')`, `array('i')`; a list costs about 25 ns a token.
    """
    if isinstance(tokens, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"tokens are ints, not {type(tokens).__name__}")
    if not isinstance(tokens, (np.ndarray, array)):
        try:
            tokens = array("i", tokens)
        except OverflowError as error:
            raise ValueError(f"a token does not fit in int32: {error}") from None
    values = np.asarray(tokens)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        if not values.size and values.ndim == 1:
            return np.empty(0, dtype="<i4")
        raise TypeError(f"tokens of shape {values.shape} and dtype {values.dtype} are not a row of ints")
    # One pass: the sign and every bit above an int32's survive a bitwise or.
    if len(values) and int(np.bitwise_or.reduce(values)) >> 31:
        wrong = values[(values < 0) | (values > np.iinfo(np.int32).max)]
        raise ValueError(f"token {int(wrong[0])} is negative or does not fit in int32")
    return values.astype("<i4", copy=False)


def common_bytes(part: bytes, key: bytes, at: int, unit: int) -> int:
    """How many first bytes of `part` stand in `key` from `at` on, in whole units of `unit` bytes.

    A few memcmp, whatever the length.
    """
    low, high = 0, min(len(part), len(key) - at) // unit
    while low < high:
        middle = (low + high + 1) // 2
        if key.startswith(part[low * unit : middle * unit], at + low * unit):
            low = middle
        else:
            high = middle - 1
    return low * unit
