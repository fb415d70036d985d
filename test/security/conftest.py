"""Attacks over real sockets. `start` and `pd`: a router before mock instances."""

import pytest
import zmq
from router_cluster import pd, start

__all__ = ["pd", "start"]


@pytest.fixture
def dealer(open_things):
    """dealer(endpoint): a socket that says what it likes. `prepare(socket)` comes before it connects."""
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)

    def make(endpoint, prepare=lambda made: None):
        made = context.socket(zmq.DEALER)
        made.linger, made.sndtimeo, made.rcvtimeo = 0, 20_000, 20_000
        prepare(made)
        made.connect(endpoint)
        return made

    return make
