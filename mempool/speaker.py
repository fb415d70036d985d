"""Who is at the other end of a connection, as its transport knows it. Imports no torch."""

from typing import NamedTuple

import zmq


class Speaker(NamedTuple):
    """`host`: its address; "" where the transport has none.

    `name`: the instance that it speaks as, where it has shown the cluster's key, for as long as the
    connection lasts. What a message claims is held against it. None: it gave no name, or nobody asked for a
    key.
    """

    host: str = ""
    name: str | None = None

    def may_be(self, instance: str) -> bool:
        """Whether it may speak as `instance`."""
        return self.name is None or self.name == instance


ANYBODY = Speaker()


def speaker_of(routing_id: zmq.Frame) -> Speaker:
    """`routing_id`: the first frame of a message that a ROUTER received.

    A process with the cluster's key connects as NAME/NUMBER. Its word counts, since the socket has asked for
    the key: only then has a frame a User-Id. ZeroMQ itself makes an id for who gives none: a 0 and a number,
    in which any byte may be a slash.
    """
    host, authenticated = _property(routing_id, "Peer-Address"), _property(routing_id, "User-Id")
    if not authenticated or routing_id.bytes.startswith(b"\0"):
        return Speaker(host)
    name = routing_id.bytes.rpartition(b"/")[0].decode(errors="replace")
    return Speaker(host, name or None)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        # A socket without ZAP has no User-Id, and one without TCP no address.
        return ""
