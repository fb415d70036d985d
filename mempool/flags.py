"""How a transfer goes. Imports no torch."""

from enum import StrEnum

import msgspec

from mempool.address import Medium


class TransferMode(StrEnum):
    """How blocks are cut into messages.

    Attributes:
        AGGREGATED: Whole blocks, as many as fit one message. The default.
        BY_LAYER: One layer of many blocks a message: it can start before the last layer is computed.
        BY_REQUEST: One plane of one block a message. It is the baseline of the MemServe paper (arXiv
            2406.17565), kept for measurements.
    """

    AGGREGATED = "aggregated"
    BY_LAYER = "by-layer"
    BY_REQUEST = "by-request"


class TransferFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of `transfer` and `transfer_with_insert`.

    Attributes:
        medium: Where the blocks go, if no target addresses are given.
        mode: How blocks are cut into messages.
        move: Gives the source blocks up once all have arrived: active ones are freed, published ones are
            unpublished. Otherwise the transfer copies.
        pin_s: For how long the receiver keeps what it publishes, in seconds: 0 to 600.
    """

    medium: Medium = Medium.DRAM
    mode: TransferMode = TransferMode.AGGREGATED
    move: bool = False
    pin_s: float = 0.0
