"""
MemPoolError
├── LayoutMismatch     two instances cannot exchange blocks
├── NamespaceMismatch  two instances' blocks do not mean the same
├── FrameError         a peer broke the protocol
├── OutOfBlocks        a medium cannot give that many blocks, even by eviction
├── BadAddress         the blocks are not the caller's to use
│   └── StaleAddress   the incarnation of the address has ended
├── LeaseExpired       the lease outlived its deadline: its blocks may be gone
├── JoinFailed         no registry took the instance (in `mempool.membership.errors`)
│   └── Superseded     another process took its place while it was silent: it must stop
└── TransferError      a transfer ended without all its blocks
    ├── PeerDied       the connection closed, or the peer was silent for too long
    ├── DeadlinePassed the caller's deadline came first
    └── Refused        the peer does not accept the blocks, or gave them up
"""

from typing import TYPE_CHECKING

# Wire types and errors import nothing but msgspec.
if TYPE_CHECKING:
    from mempool.address import Owner


class MemPoolError(Exception):
    """Base of all errors of this package."""


class LayoutMismatch(MemPoolError):
    """Two instances' block layouts differ, so that they cannot exchange blocks.

    Attributes:
        field: The first field of `BlockLayout` that differs.
    """

    def __init__(self, field: str, here: object, there: object) -> None:
        super().__init__(f"KV block layouts differ in {field}: {here} here, {there} at the peer")
        self.field = field


class NamespaceMismatch(MemPoolError):
    """Two instances' blocks have the same layout, but do not mean the same.

    Attributes:
        field: The name of the first digest that differs, for example "model".
    """

    def __init__(self, field: str, here: object, there: object) -> None:
        super().__init__(f"KV namespaces differ in {field}: {here} here, {there} at the peer")
        self.field = field


class FrameError(MemPoolError):
    """A peer sent bytes that are no message of the protocol."""


class _OwnerError(MemPoolError):
    def __init__(self, owner: "Owner", cause: str) -> None:
        super().__init__(f"{owner}: {cause}")
        self.owner = owner
        self.cause = cause


class OutOfBlocks(_OwnerError):
    """A medium cannot give that many blocks, even by eviction. Nothing was allocated.

    Attributes:
        owner: The medium, instance and incarnation.
        cause: How many blocks were requested, and how many are free.
    """


class BadAddress(_OwnerError):
    """Blocks are not the caller's to use: free already, published, held for another, or out of range.

    Attributes:
        owner: The medium, instance and incarnation.
        cause: The first wrong block, and what is wrong with it.
    """


class StaleAddress(BadAddress):
    """The incarnation of an address has ended: its blocks belong to others now."""


class LeaseExpired(MemPoolError):
    """A lease outlived its deadline, or was released: its blocks may be gone."""


class TransferError(MemPoolError):
    """A transfer ended without all its blocks.

    Attributes:
        peer: The name or the endpoint of the other instance.
        cause: Why it ended.
    """

    def __init__(self, peer: str, cause: str) -> None:
        super().__init__(f"transfer with {peer}: {cause}")
        self.peer = peer
        self.cause = cause


class PeerDied(TransferError):
    """The other instance is unknown, dead or silent, or this one stops."""


class DeadlinePassed(TransferError):
    """The caller's deadline came before the end of the call."""


class Refused(TransferError):
    """The other instance does not accept the blocks, or the sender gave them up."""
