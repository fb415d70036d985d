"""
MemPoolError
├── LayoutMismatch     two instances cannot exchange blocks
├── FrameError         a peer sent something that is not of the protocol
└── TransferError      a transfer ended without all its blocks
    ├── PeerDied       the connection closed, or nothing came in time
    └── Refused        the other side does not want these blocks moved, or not any more
"""


class MemPoolError(Exception):
    """Base of all errors of this package."""


class LayoutMismatch(MemPoolError):
    def __init__(self, field: str, here: object, there: object) -> None:
        super().__init__(f"KV block layouts differ in {field}: {here} here, {there} at the peer")
        self.field = field


class FrameError(MemPoolError):
    pass


class TransferError(MemPoolError):
    def __init__(self, peer: str, cause: str) -> None:
        super().__init__(f"transfer with {peer}: {cause}")
        self.peer = peer
        self.cause = cause


class PeerDied(TransferError):
    pass


class Refused(TransferError):
    pass
