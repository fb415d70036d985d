"""Which blocks of an arena a transfer touches, in which order."""

import numpy as np
import numpy.typing as npt

SENDER_SEED, RECEIVER_SEED = 1, 2


def scattered(count: int, within: int, seed: int) -> npt.NDArray[np.int64]:
    """int64 `[count]`: all of `within` blocks in an order by chance, again and again.

    Neighbours in the list are not neighbours in memory, as in a pool that has been in use.
    """
    order = np.random.default_rng(seed).permutation(within)
    return np.tile(order, -(-count // within))[:count].astype(np.int64)
