"""Which connections are taken, and which give way."""

from collections import Counter

import pytest

from router.admission.connections import ClientConnections, address_of
from router.errors import Overloaded


class Client:
    def __init__(self, connections, address):
        self.connections, self.address, self.gave_way = connections, address, False
        connections.enter(address)
        connections.waits(self, address, served=False)

    def busy(self):
        self.connections.busy(self, self.address)
        return self

    def served(self):
        self.busy()
        self.connections.waits(self, self.address, served=True)
        return self

    def give_way(self):
        self.gave_way = True
        self.connections.leave(self, self.address)


@pytest.fixture
def refused():
    return Counter()


@pytest.fixture
def connections(refused):
    return ClientConnections(limit=6, limit_by_address=4, refused=refused)


def test_a_newcomer_takes_the_place_of_the_one_that_waits_longest(connections, refused):
    clients = [Client(connections, address) for address in "aaabbb"]
    clients[0].busy()
    Client(connections, "b")
    assert [client.gave_way for client in clients] == [False, True, False, False, False, False]
    assert (connections.count, refused) == (6, {"connection_gave_way": 1})


def test_of_several_addresses_that_with_the_most_gives_way(connections):
    single = Client(connections, "c")
    clients = [Client(connections, address) for address in "aabbb"]
    Client(connections, "d")
    assert not single.gave_way
    assert [client.gave_way for client in clients] == [False, False, True, False, False]


def test_one_that_was_served_gives_way_after_those_that_were_not(connections):
    kept = Client(connections, "a").served()
    clients = [Client(connections, "a") for _ in range(3)]
    for _ in range(3):
        Client(connections, "a").busy()
    assert (kept.gave_way, [client.gave_way for client in clients]) == (False, [True] * 3)
    Client(connections, "a")
    assert kept.gave_way


def test_whoever_has_sent_a_whole_request_stays_and_newcomers_are_refused(connections, refused):
    clients = [Client(connections, address).busy() for address in "aaaabb"]
    with pytest.raises(Overloaded, match="from this address") as error:
        connections.enter("a")
    assert (error.value.status, error.value.headers["Retry-After"]) == (503, "1")
    with pytest.raises(Overloaded, match="too many connections are open;"):
        connections.enter("c")
    assert not any(client.gave_way for client in clients)
    assert refused == {"connections_of_address": 1, "connections": 1}


def test_places_come_back(connections):
    for _ in range(100):
        clients = [Client(connections, address) for address in "aaabbb"]
        for client in clients[::2]:
            client.busy()
        for client in clients:
            connections.leave(client, client.address)
    assert (connections.count, connections._addresses) == (0, {})


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_host_is_counted_by_its_network_of_ipv6(host, address):
    assert address_of(host) == address
