"""Deaths are judged by the clock, whatever is thrown at the registry meanwhile."""

import time

import pytest
from hostile_messages import nested, with_field

from mempool.layout import BlockLayout
from mempool.membership.messages import Heartbeat, InstanceInfo, Join, decode_to_member, encode
from mempool.membership.registry_server import MembershipRegistry

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)
BEAT = encode(Heartbeat("stranger", 1))


def info(name):
    at = {"control": "tcp://127.0.0.1:9", "data": "stream://127.0.0.1:9"}
    return InstanceInfo(instance=name, incarnation=1, role="x", layout=LAYOUT, namespace={}, **at)


JOIN = encode(Join(info("stranger"), bytes(16)))


@pytest.mark.parametrize(
    "frames",
    [[with_field(BEAT, next(nested()))], [BEAT], [b""], [b"x", b"y"], [BEAT] * 1000, [JOIN]],
    ids=["nested", "refused", "empty", "two frames", "a thousand frames", "joins"],
)  # fmt: skip
def test_a_silent_instance_is_declared_dead_during_a_flood(dealer, open_things, frames):
    registry = MembershipRegistry("tcp://127.0.0.1:0", suspicion_s=0.3, death_s=0.6)
    open_things.callback(registry.close)
    silent, flooding = dealer(registry.endpoint), dealer(registry.endpoint)
    silent.send(encode(Join(info("silent"), bytes(16))))
    decode_to_member(silent.recv())
    began = time.monotonic()
    while any(status.info.instance == "silent" for status in registry._roll.standings()):
        assert time.monotonic() - began < 30, "it is still alive"
        flooding.send_multipart(frames)
        while flooding.poll(0):
            flooding.recv_multipart()
        time.sleep(0.0005)
    assert registry.errors == 0


def test_an_error_while_reading_keeps_nobody_alive(dealer, open_things, monkeypatch):
    registry = MembershipRegistry("tcp://127.0.0.1:0", suspicion_s=0.3, death_s=0.6)
    open_things.callback(registry.close)
    silent = dealer(registry.endpoint)
    silent.send(encode(Join(info("silent"), bytes(16))))
    decode_to_member(silent.recv())

    def fail():
        raise OSError("the monitor is gone")

    monkeypatch.setattr(registry._connections, "hear_of_closed", fail)
    began = time.monotonic()
    while registry._roll.standings():
        assert time.monotonic() - began < 30, "it is still alive"
        time.sleep(0.01)
