"""Who is at the other end of a connection, as its transport knows it. Imports no torch."""

from typing import NamedTuple

import zmq


class Speaker(NamedTuple):
    """`host`: its address; "" where the transport has none.

    `name`: the instance that its key proves it to be; None where the transport asks for no key. What a
    message claims is to be held against it.
    """

    host: str = ""
    name: str | None = None

    def may_be(self, instance: str) -> bool:
        """Whether it may speak as `instance`."""
        return self.name is None or self.name == instance


ANYBODY = Speaker()


def speaker_of(frame: zmq.Frame) -> Speaker:
    """Of a received frame: the ZAP handler of an authenticated socket gives the name, as its User-Id."""
    return Speaker(_property(frame, "Peer-Address"), _property(frame, "User-Id") or None)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        # A socket without ZAP has no User-Id, and one without TCP no address.
        return ""
