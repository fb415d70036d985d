"""Whether blocks came over as they were sent."""

from collections.abc import Iterable

import xxhash

from mempool.errors import TransferError


class ChecksumMismatch(TransferError):
    """Blocks changed on the way, or were written to while they were sent."""

    def __init__(
        self, peer: str, cause: str = "the payload does not have the checksum it was sent with"
    ) -> None:
        super().__init__(peer, cause)


def digest(frames: Iterable[memoryview]) -> int:
    state = xxhash.xxh3_64()
    for frame in frames:
        state.update(frame)
    return state.intdigest()
