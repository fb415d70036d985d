"""Everything that one instance exchanges with others: requests, transfers, fetches."""

from collections.abc import Callable
from contextlib import ExitStack, closing

from mempool.config import MemPoolConfig
from mempool.engine import EngineHbm, ReceivedBlocks
from mempool.errors import TransferError
from mempool.local import LocalPool
from mempool.peers import PeerDirectory
from mempool.remote.control import Control
from mempool.remote.fetching import Fetching
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import Caller, namespace_digest
from mempool.remote.requests import RequestQueue
from mempool.remote.sending import Sending
from mempool.remote.serving import Serving
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports


class PeerExchange:
    """The control channel and the block channel of an instance, put together.

    Each part gets the parts that it uses: nothing is connected afterwards. Raises MemPoolError where a URL of
    `config` cannot be listened at.
    """

    def __init__(
        self,
        local: LocalPool,
        peers: PeerDirectory,
        config: MemPoolConfig,
        transports: Transports,
        *,
        engine: EngineHbm | None,
        on_received: Callable[[ReceivedBlocks], None] | None,
    ) -> None:
        limits, encrypt = config.limits, config.encrypt.applies_at(config.data_url)
        self._transports = transports
        with ExitStack() as stack:
            self.requests = stack.enter_context(closing(RequestQueue()))
            self._receiver = stack.enter_context(
                closing(
                    BlockReceiver(
                        config.data_url,
                        limits=limits,
                        transports=transports,
                        encrypt=encrypt,
                        fabrics=config.fabric_urls,
                    )
                )
            )
            self._sender = stack.enter_context(
                closing(BlockSender(limits=limits, transports=transports, encrypt=encrypt))
            )
            namespace = namespace_digest(config.namespace)
            self._ledger = PeerLedger(config.quota, lambda medium: local.tier(medium).allocator.total)
            self.sending = Sending(local, self.requests, self._sender, namespace)
            on_publish_request = None if engine is None else engine.on_publish_request
            self.fetching = Fetching(
                local, peers, self.requests, self.sending, self._ledger, on_publish_request
            )
            self.serving = Serving(
                local,
                self._receiver,
                self.fetching,
                ledger=self._ledger,
                namespace=namespace,
                on_received=on_received,
                engine=engine,
            )
            self._control = Control(
                config.control_url,
                lambda: Caller(local.instance, local.incarnation),
                self.serving.answer,
                self.requests,
                limits=limits,
                transports=transports,
            )
            stack.enter_context(closing(self._control))
            self._open = stack.pop_all()

    @property
    def control(self) -> str:
        """The endpoint where others send requests."""
        return self._control.endpoint

    @property
    def data(self) -> str:
        """The endpoint where others send blocks."""
        return self._receiver.endpoint

    @property
    def fabrics(self) -> tuple[str, ...]:
        """Others for the same, best first."""
        return self._receiver.fabrics

    def counters(self) -> dict[str, int]:
        """Now: `incoming`, `outgoing`, `fetching`, `held_blocks`; sums of the rest."""
        channels = (self._receiver, self._sender, self._control)
        return {
            "incoming": self.serving.incoming,
            "outgoing": self.sending.outgoing,
            "fetching": self.fetching.pending,
            "held_blocks": self.serving.held_blocks,
            "lost_parts": self.fetching.lost_parts,
            "peer_refusals": self._ledger.refusals + self._control.impostors,
            "bytes_sent": self._sender.bytes_sent,
            "messages_sent": self._sender.messages_sent,
            "fabric_fallbacks": self._sender.fabric_fallbacks,
            "bytes_received": self._receiver.bytes_received,
            "refused_connections": self._transports.refused,
            "bad_frames": sum(channel.bad_frames for channel in channels),
            "errors": sum(channel.errors for channel in channels),
        }

    def expire(self) -> None:
        """Ends what is overdue."""
        self.serving.expire()
        self.sending.expire()
        self.fetching.expire()

    def release(self, instance: str, keep_incarnation: int | None) -> None:
        """Ends everything with an instance that is dead, but for one incarnation of it."""
        self.serving.release(instance, keep_incarnation)
        self.sending.release(instance, keep_incarnation)
        self.fetching.release(instance, keep_incarnation)

    def abort(self, error: TransferError) -> None:
        """Ends every transfer, and releases the blocks held for others."""
        self.sending.abort(error)
        self.serving.release_all()

    def end_calls(self, error: TransferError) -> None:
        """Calls under way end with `error`, and so do later ones."""
        self.sending.close(error)
        self.fetching.close(error)
        self.serving.release_all()

    def close(self) -> None:
        """Closes the channels, after `end_calls`."""
        self._open.close()
