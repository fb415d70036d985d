"""An instance's place in the cluster: what the others know of it, and what follows from their changes."""

import logging
from collections.abc import Callable, Sequence

import msgspec

from mempool.errors import MemPoolError, PeerDied
from mempool.local import LocalPool
from mempool.membership.client import MembershipClient
from mempool.membership.messages import Change, ChangeKind, InstanceInfo
from mempool.peers import PeerDirectory
from mempool.remote.exchange import PeerExchange
from mempool.security.access import ClusterAccess

logger = logging.getLogger(__name__)


class ClusterMembership:
    """Keeps the pool in step with the registries. `info` is this instance as the others know it now.

    Without registries, `introduce` makes other instances known. `on_stopped` is called when
    another process of the cluster has taken its place.
    """

    def __init__(
        self,
        info: InstanceInfo,
        local: LocalPool,
        peers: PeerDirectory,
        exchange: PeerExchange,
        *,
        registries: Sequence[str],
        access: ClusterAccess,
        on_stopped: Callable[[MemPoolError], None] | None,
    ) -> None:
        self.info = info
        self._local = local
        self._peers = peers
        self._exchange = exchange
        self._on_stopped = on_stopped
        self._client = (
            MembershipClient(
                info,
                registries,
                on_change=self.changed,
                on_fenced=self.fenced,
                on_stopped=self._stopped,
                access=access,
            )
            if registries
            else None
        )

    def join(self) -> None:
        """Raises as `MembershipClient.join`."""
        if self._client is not None:
            self._client.join()
            self._peers.set_members(self._client.members)

    def close(self) -> None:
        """Leaves. Idempotent."""
        if self._client is not None:
            self._client.close()

    def introduce(self, info: InstanceInfo) -> None:
        """As `MemPool.introduce`."""
        self._local.layout.require_same(info.layout)
        self.info.require_same_namespace(info)
        self._peers.introduce(info)
        self.forget(info.instance, info.incarnation)

    def changed(self, change: Change) -> None:
        """On the membership's thread."""
        assert self._client is not None
        self._peers.set_members(self._client.members)
        info = change.info
        if change.kind in (ChangeKind.DIED, ChangeKind.LEFT):
            self.forget(info.instance, None)
        elif change.kind is ChangeKind.JOINED:
            self.forget(info.instance, info.incarnation)

    def forget(self, instance: str, keep_incarnation: int | None) -> None:
        """Ends everything with an instance, but for one incarnation of it."""
        self._local.forget(instance, keep_incarnation)
        self._exchange.release(instance, keep_incarnation)

    def fenced(self, old: int, new: int) -> None:
        """The others declared this instance dead, and freed its blocks there: a new incarnation begins."""
        dead = PeerDied(self.info.instance, f"incarnation {old} was declared dead")
        self._exchange.abort(dead)
        self._local.reset_incarnation(new)
        # What other threads began before the incarnation changed.
        self._exchange.abort(dead)
        self.info = msgspec.structs.replace(self.info, incarnation=new)

    def _stopped(self, error: MemPoolError) -> None:
        logger.error("%s takes part no more: %s", self.info.instance, error)
        if self._on_stopped is not None:
            self._on_stopped(error)
