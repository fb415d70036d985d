"""Errors of joining a cluster. `mempool.errors` shows where they are in the hierarchy."""

from mempool.errors import MemPoolError


class JoinFailed(MemPoolError):
    """No registry took this instance."""


class Superseded(JoinFailed):
    """Another process of the cluster has taken the place of this one, which was silent, and must stop.

    Attributes:
        incarnation: This process's own incarnation.
        newer: The other's incarnation; 0 where that has ended too.
    """

    def __init__(self, instance: str, incarnation: int, newer: int) -> None:
        super().__init__(
            f"incarnation {incarnation} of {instance} was replaced while it was silent, by {newer}: this "
            "process must stop"
        )
        self.incarnation = incarnation
        self.newer = newer
