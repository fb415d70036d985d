"""
MemPoolError
└── JoinFailed       no registry took this instance
    └── Superseded   a newer incarnation of the same instance is or was there: this process must stop
"""

from mempool.errors import MemPoolError


class JoinFailed(MemPoolError):
    pass


class Superseded(JoinFailed):
    def __init__(self, instance: str, incarnation: int, newer: int) -> None:
        super().__init__(
            f"{instance} has a newer incarnation than {incarnation}, {newer}: this process must stop"
        )
        self.incarnation = incarnation
        self.newer = newer
