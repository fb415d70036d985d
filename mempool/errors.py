"""
MemPoolError
├── LayoutMismatch     two instances cannot exchange blocks
├── NamespaceMismatch  two instances' blocks do not mean the same
├── FrameError         a peer sent something that is not of the protocol
├── OutOfBlocks        a medium has not that many blocks to give, not even by eviction
├── BadAddress         blocks that are not the caller's to use
│   └── StaleAddress   blocks of an incarnation that is no more
├── LeaseExpired       a lease that outlived its deadline: its blocks may be gone
└── TransferError      a transfer ended without all its blocks
    ├── PeerDied       the connection closed, or nothing came in time
    ├── DeadlinePassed the caller's own deadline came first
    └── Refused        the other side does not want these blocks moved, or not any more
"""

from typing import TYPE_CHECKING

# Wire types and errors import with nothing but msgspec there.
if TYPE_CHECKING:
    from mempool.address import Owner


class MemPoolError(Exception):
    """Base of all errors of this package."""


class LayoutMismatch(MemPoolError):
    def __init__(self, field: str, here: object, there: object) -> None:
        super().__init__(f"KV block layouts differ in {field}: {here} here, {there} at the peer")
        self.field = field


class NamespaceMismatch(MemPoolError):
    def __init__(self, field: str, here: object, there: object) -> None:
        super().__init__(f"KV namespaces differ in {field}: {here} here, {there} at the peer")
        self.field = field


class FrameError(MemPoolError):
    pass


class _OfOwner(MemPoolError):
    def __init__(self, owner: "Owner", cause: str) -> None:
        super().__init__(f"{owner}: {cause}")
        self.owner = owner
        self.cause = cause


class OutOfBlocks(_OfOwner):
    pass


class BadAddress(_OfOwner):
    pass


class StaleAddress(BadAddress):
    pass


class LeaseExpired(MemPoolError):
    pass


class TransferError(MemPoolError):
    def __init__(self, peer: str, cause: str) -> None:
        super().__init__(f"transfer with {peer}: {cause}")
        self.peer = peer
        self.cause = cause


class PeerDied(TransferError):
    pass


class DeadlinePassed(TransferError):
    pass


class Refused(TransferError):
    pass
