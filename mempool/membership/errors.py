"""Errors of joining a cluster. `mempool.errors` shows where they are in the hierarchy."""

from mempool.errors import MemPoolError


class JoinFailed(MemPoolError):
    """No registry took this instance."""


class Superseded(JoinFailed):
    """A newer incarnation of the same instance exists, or existed: this process must stop.

    Attributes:
        incarnation: This process's own incarnation.
        newer: The newer incarnation.
    """

    def __init__(self, instance: str, incarnation: int, newer: int) -> None:
        super().__init__(
            f"{instance} has a newer incarnation than {incarnation}, {newer}: this process must stop"
        )
        self.incarnation = incarnation
        self.newer = newer
