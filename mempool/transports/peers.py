"""The connections that one thread keeps to others, by endpoint, and never more than so many."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import zmq

from mempool.errors import PeerDied
from mempool.transports.base import TransportConnection


class ConnectedPeer(Protocol):
    """`idle`: whether nothing is lost with its connection."""

    endpoint: str
    connection: TransportConnection

    @property
    def idle(self) -> bool: ...


P = TypeVar("P", bound=ConnectedPeer)


class PeerTable(dict[str, P]):
    """Peers by endpoint, those that were used last at the end. `poller` polls their connections.

    Where there are `max_peers`, the idle one that was used longest ago gives way: `give_way` has to drop it.
    `in_use` says in an error what the others are there for.
    """

    def __init__(
        self,
        poller: zmq.Poller,
        max_peers: int,
        connect: Callable[[str], P],
        give_way: Callable[[P, PeerDied], None],
        *,
        in_use: str,
    ) -> None:
        super().__init__()
        self._poller = poller
        self._max_peers = max_peers
        self._connect = connect
        self._give_way = give_way
        self._in_use = in_use

    @property
    def full(self) -> bool:
        return len(self) >= self._max_peers

    def use(self, endpoint: str) -> P:
        """The peer there, which is connected to where there is none.

        Raises PeerDied where all are in use, and what connecting raises.
        """
        peer = self.pop(endpoint, None)
        if peer is None:
            if self.full:
                self._make_room(endpoint)
            peer = self._connect(endpoint)
            for pollable in peer.connection.pollables:
                self._poller.register(pollable, zmq.POLLIN)
        self[endpoint] = peer
        return peer

    def forget(self, peer: P) -> None:
        """Its connection is about to be closed."""
        del self[peer.endpoint]
        for pollable in peer.connection.pollables:
            self._poller.unregister(pollable)

    def _make_room(self, endpoint: str) -> None:
        unused = next((peer for peer in self.values() if peer.idle), None)
        if unused is None:
            raise PeerDied(endpoint, f"{len(self)} {self._in_use}")
        self._give_way(unused, PeerDied(unused.endpoint, "its connection gave way to others"))
