"""Clients' connections: how many there are, and which gives way where there are too many."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Protocol

from router.errors import Overloaded

TOO_MANY = "connections"
TOO_MANY_OF_ADDRESS = "connections_of_address"
GAVE_WAY = "connection_gave_way"
# Those that were refused and may still read why.
_MOST_LEAVING = 32


class Waiting(Protocol):
    """A connection that may be closed while no whole request has come."""

    def give_way(self) -> None: ...


class _Address:
    """One address's connections. Those that wait do so for a whole request, the longest first."""

    def __init__(self) -> None:
        self.count = 0
        self.unserved: dict[Waiting, None] = {}
        self.served: dict[Waiting, None] = {}

    @property
    def next_to_go(self) -> Waiting | None:
        """One that never got an answer, before one that may be a client's own between two requests."""
        return next(iter(self.unserved or self.served), None)

    def forget(self, connection: Waiting) -> None:
        self.unserved.pop(connection, None)
        self.served.pop(connection, None)


class ClientConnections:
    """Counts connections, in all and by address. A newcomer beyond a bound takes the place of one that waits.

    So whoever sends a whole request at once is served while others hold connections open. Where nobody
    waits, the newcomer is refused. `refused` counts both, by reason.
    """

    def __init__(self, limit: int, limit_by_address: int, refused: Counter[str]) -> None:
        self.limit = limit
        self.limit_by_address = limit_by_address
        self.count = 0
        self._leaving = 0
        self._refused = refused
        self._addresses: dict[str, _Address] = {}

    def enter(self, address: str) -> None:
        """Counts one of `address`, until it leaves. Raises Overloaded."""
        own = self._addresses.get(address)
        if own is not None and own.count >= self.limit_by_address:
            if not self._make_room(own):
                raise self._refusal(TOO_MANY_OF_ADDRESS, "too many connections are open from this address")
        elif self.count >= self.limit and not self._make_room(self._fullest()):
            raise self._refusal(TOO_MANY, "too many connections are open")
        # One that gives way still counts, until it has left.
        self._addresses.setdefault(address, _Address()).count += 1
        self.count += 1

    def leave(self, connection: Waiting, address: str) -> None:
        self.busy(connection, address)
        own = self._addresses[address]
        own.count -= 1
        self.count -= 1
        if not own.count:
            del self._addresses[address]

    def waits(self, connection: Waiting, address: str, *, served: bool) -> None:
        """For a request, or for the rest of one. `served`: it has had an answer."""
        own = self._addresses[address]
        (own.served if served else own.unserved)[connection] = None

    def busy(self, connection: Waiting, address: str) -> None:
        """A whole request is there."""
        self._addresses[address].forget(connection)

    def may_linger(self) -> bool:
        """Whether a refused one may stay for a moment, to read why; it counts until `left`."""
        if self._leaving >= _MOST_LEAVING:
            return False
        self._leaving += 1
        return True

    def left(self) -> None:
        self._leaving -= 1

    def _make_room(self, address: _Address | None) -> bool:
        if address is None or (connection := address.next_to_go) is None:
            return False
        address.forget(connection)
        connection.give_way()
        self._refused[GAVE_WAY] += 1
        return True

    def _fullest(self) -> _Address | None:
        """Of the addresses with one that waits, that which holds the most."""
        waiting = (each for each in self._addresses.values() if each.next_to_go is not None)
        return max(waiting, key=lambda each: each.count, default=None)

    def _refusal(self, reason: str, message: str) -> Overloaded:
        self._refused[reason] += 1
        return Overloaded(reason, f"{message}; close those that are not needed, or come again")


def address_of(host: str) -> str:
    """By what a host's connections are counted: a host has a whole /64 of IPv6 addresses."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
