"""What a pool hands to the engine and to the user that it belongs to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mempool.address import Addresses, BlockNumbers


class ReceivedBlocks(NamedTuple):
    """The blocks that a transfer from another instance brought.

    Attributes:
        instance: The sender.
        private: The sender's cookie.
        addresses: Where the blocks are now.
        published: Whether they are in this instance's index. They are active KV otherwise.
        tokens: int32 `[n]`, as the sender named them. The blocks are the last ones of these tokens.
        namespace: The namespace of the tokens.
    """

    instance: str
    private: bytes
    addresses: Addresses
    published: bool
    tokens: BlockNumbers | None
    namespace: str


class PublishRequest(NamedTuple):
    """Another instance wants KV that only the engine's HBM has.

    Attributes:
        tokens: int32 `[n]`: the tokens whose KV is wanted.
        namespace: The namespace of the tokens.
        published: How many tokens, from the first on, are published in DRAM already.
        done: To be called once, from any thread. It sends what is published by then.
    """

    tokens: BlockNumbers
    namespace: str
    published: int
    done: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class EngineHbm:
    """The HBM of an engine that allocates and publishes there itself. The pool has no HBM store then.

    Attributes:
        on_received: Gets the blocks that other instances sent to HBM. They landed in DRAM. The callback runs
            on the receiver's thread, and has to free them.
        on_publish_request: Is asked to publish in DRAM what others want of the engine's HBM. The callback
            runs on the control thread, and must return at once. None: the engine publishes nothing on demand.
        serves: Whether requests here can be of a namespace: KV that others send under another is refused.
    """

    on_received: Callable[[ReceivedBlocks], None]
    on_publish_request: Callable[[PublishRequest], None] | None = None
    serves: Callable[[str], bool] = lambda namespace: True
