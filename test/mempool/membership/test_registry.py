"""A registry and its members over real sockets."""

import random
import threading

import psutil
import pytest
import zmq
from waiting import until

from mempool.errors import FrameError, LayoutMismatch, MemPoolError, NamespaceMismatch
from mempool.membership import connections
from mempool.membership.errors import JoinFailed
from mempool.membership.messages import (
    Heartbeat,
    HeartbeatAck,
    Join,
    Leave,
    MembershipSnapshot,
    Reason,
    Refusal,
    decode_to_member,
    decode_to_registry,
    encode,
)

FRAMES = 10_000
P1, P2 = b"1" * 16, b"2" * 16


class RawClient:
    """Speaks to a registry as it likes."""

    def __init__(self, endpoint):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.SNDTIMEO, 20_000)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.setsockopt(zmq.LINGER, 20_000)
        self.socket.connect(endpoint)

    def request(self, message):
        self.socket.send(encode(message))
        return decode_to_member(self.socket.recv())

    def close(self):
        self.context.destroy()


@pytest.fixture
def start_client(open_things):
    def start(endpoint):
        client = RawClient(endpoint)
        open_things.callback(client.close)
        return client

    return start


def names(watcher):
    return set(watcher.member.members)


def test_members_learn_of_each_other_and_of_one_that_leaves(start_registry, join):
    registry = start_registry()
    a, b = join("a", registry.endpoint), join("b", registry.endpoint, role="decode")
    a.wait_for_changes("b", "joined")
    assert names(b) == {"a"}
    assert a.member.members["b"].info == b.member.info
    b.member.close()
    a.wait_for_changes("b", "joined", "left")
    assert names(a) == set()


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_an_instance_is_missed_at_once_when_its_connection_closes(
    start_registry, join, start_client, make_info, tmp_path, scheme
):
    url = "tcp://127.0.0.1:0" if scheme == "tcp" else f"ipc://{tmp_path}/registry"
    registry = start_registry(url, suspicion_s=60, death_s=61)
    a, client = join("a", registry.endpoint), start_client(registry.endpoint)
    assert isinstance(client.request(Join(make_info("b"), P1)), MembershipSnapshot)
    a.wait_for_changes("b", "joined")
    client.close()
    a.wait_for_changes("b", "joined", "died")


def test_a_hint_that_means_another_connection_kills_nobody(start_registry, join, start_client, monkeypatch):
    registry = start_registry(suspicion_s=60, death_s=61)
    a, b = join("a", registry.endpoint), join("b", registry.endpoint)
    hints, watched = [], registry._connections._by_fd

    def every_watched_fd(monitor):
        connections_event(monitor)
        hints.extend(watched)
        return {"value": next(iter(watched))}

    connections_event = connections.recv_monitor_message
    monkeypatch.setattr(connections, "recv_monitor_message", every_watched_fd)
    stranger = start_client(registry.endpoint)
    assert isinstance(stranger.request(Heartbeat("c", 1)), Refusal)
    stranger.close()
    until(lambda: hints and not registry._connections.in_doubt, "the hint is looked into and dropped")
    join("c", registry.endpoint)
    a.wait_for_changes("c", "joined")
    assert a.changes_of("b") == ["joined"]
    assert b.fenced == a.fenced == []


def test_a_mismatch_is_raised_at_join_with_the_field_and_both_values(start_registry, join, make_layout):
    registry = start_registry()
    join("a", registry.endpoint)
    with pytest.raises(LayoutMismatch, match="differ in layers: 8 here, 4 at the peer") as layout:
        join("b", registry.endpoint, layout=make_layout(layers=8))
    assert layout.value.field == "layers"
    with pytest.raises(NamespaceMismatch, match="differ in model: m2 here, m1 at the peer") as namespace:
        join("b", registry.endpoint, namespace={"model": "m2", "kv_dtype": "bfloat16"})
    assert namespace.value.field == "model"


def test_a_full_registry_is_named_when_the_deadline_passes(start_registry, join):
    registry = start_registry(max_members=1)
    join("a", registry.endpoint)
    with pytest.raises(
        JoinFailed, match=f"no registry took b .*{registry.endpoint}: refused: full members 1"
    ):
        join("b", registry.endpoint, seconds=0.3)


def test_a_second_process_of_a_name_stays_out_until_the_first_is_gone(start_registry, join):
    registry = start_registry()
    a, first = join("a", registry.endpoint), join("x", registry.endpoint)
    with pytest.raises(JoinFailed, match=r"another process is x, as incarnation \d+: stop it"):
        join("x", registry.endpoint, seconds=0.5)
    assert a.changes_of("x") == ["joined"]
    assert first.fenced == []
    first.member.close()
    second = join("x", registry.endpoint)
    a.wait_for_changes("x", "joined", "left", "joined")
    assert a.member.members["x"].info.incarnation == second.member.info.incarnation


def test_joining_again_on_a_new_connection_is_no_change(start_registry, join, start_client, make_info):
    registry = start_registry(suspicion_s=60, death_s=61)
    a, info = join("a", registry.endpoint), make_info("x")
    first, second = start_client(registry.endpoint), start_client(registry.endpoint)
    assert isinstance(first.request(Join(info, P1)), MembershipSnapshot)
    assert isinstance(second.request(Join(info, P1)), MembershipSnapshot)
    first.close()
    assert isinstance(second.request(Heartbeat("x", info.incarnation)), HeartbeatAck)
    join("b", registry.endpoint)
    a.wait_for_changes("b", "joined")
    assert a.changes_of("x") == ["joined"]


def test_a_registry_that_is_twice_in_a_list_is_no_trouble(start_registry, join):
    registry = start_registry(suspicion_s=60, death_s=61)
    twice = registry.endpoint, registry.endpoint.replace("127.0.0.1", "localhost")
    a, b = join("a", *twice), join("b", *twice)
    until(lambda: all(link.joined for link in a.member._links), "both are joined")
    join("c", registry.endpoint).member.close()
    a.wait_for_changes("c", "joined", "left")
    assert a.changes_of("b") == ["joined"]
    b.member.close()
    a.wait_for_changes("b", "joined", "left")
    assert a.fenced == b.fenced == []


def test_the_dead_are_refused_as_dead(start_registry, join, start_client, make_info):
    registry = start_registry(suspicion_s=60, death_s=61)
    a, info = join("a", registry.endpoint), make_info("x", 5)
    first, second = start_client(registry.endpoint), start_client(registry.endpoint)
    first.request(Join(info, P1))
    first.close()
    a.wait_for_changes("x", "joined", "died")
    assert second.request(Join(info, P1)).reason is Reason.DEAD
    assert second.request(Heartbeat("x", 5)).reason is Reason.DEAD
    assert isinstance(second.request(Join(make_info("x", 6), P1)), MembershipSnapshot)
    assert second.request(Heartbeat("x", 5)).reason is Reason.DEAD
    a.wait_for_changes("x", "joined", "died", "joined")


def test_nobody_can_speak_for_another(start_registry, join, start_client):
    registry = start_registry()
    a, b = join("a", registry.endpoint), join("b", registry.endpoint)
    client = start_client(registry.endpoint)
    assert isinstance(client.request(Leave("a", a.member.info.incarnation)), Refusal)
    join("c", registry.endpoint)
    b.wait_for_changes("c", "joined")
    assert names(b) == {"a", "c"}


def test_a_connection_that_takes_another_name_gives_up_the_first(
    start_registry, join, start_client, make_info
):
    registry = start_registry()
    a, client = join("a", registry.endpoint), start_client(registry.endpoint)
    client.request(Join(make_info("x"), P1))
    client.request(Join(make_info("y"), P1))
    a.wait_for_changes("x", "joined", "died")
    a.wait_for_changes("y", "joined")


def test_a_snapshot_of_several_pages_is_complete(start_registry, join, start_client, make_info):
    registry = start_registry()
    for n in range(60):
        start_client(registry.endpoint).request(Join(make_info(f"x{n}"), P1))
    assert names(join("a", registry.endpoint)) == {f"x{n}" for n in range(60)}


def junk(seed, messages):
    """Frames of random bytes, and frames of the protocol with bytes changed, cut out and put in."""
    source = random.Random(seed)
    for _ in range(FRAMES):
        if source.random() < 0.3:
            yield [source.randbytes(source.randrange(200)) for _ in range(source.choice((1, 1, 1, 2, 3)))]
            continue
        frame = bytearray(source.choice(messages))
        for _ in range(source.randrange(1, 6)):
            at = source.randrange(len(frame))
            frame[at : at + source.randrange(3)] = source.randbytes(source.randrange(3))
        yield [bytes(frame)]


def is_bad(parts):
    try:
        decode_to_registry(parts[0])
    except FrameError:
        return True
    return len(parts) != 1


def test_junk_is_counted_and_hurts_nobody(start_registry, join, start_client, make_info):
    registry = start_registry(suspicion_s=60, death_s=61)
    a, b = join("a", registry.endpoint), join("b", registry.endpoint)
    client, bad = start_client(registry.endpoint), 0
    messages = [
        encode(message) for message in (Join(make_info("junk"), P1), Heartbeat("junk", 7), Leave("junk", 7))
    ]
    for parts in junk(20, messages):
        client.socket.send_multipart(parts)
        bad += is_bad(parts)
    assert bad > FRAMES / 2
    until(lambda: registry.bad_frames == bad, "all that was bad is counted")
    join("c", registry.endpoint)
    b.wait_for_changes("c", "joined")
    assert {"a", "c"} <= names(b)
    assert a.changes_of("b") == ["joined"]
    assert a.fenced == b.fenced == []


def test_a_frame_too_large_costs_the_sender_its_connection_only(start_registry, join, start_client):
    registry = start_registry()
    a, client = join("a", registry.endpoint), start_client(registry.endpoint)
    client.socket.send(bytes(1 << 20))
    join("b", registry.endpoint)
    a.wait_for_changes("b", "joined")
    assert a.fenced == []


def test_a_taken_address_is_named(start_registry):
    registry = start_registry()
    with pytest.raises(MemPoolError, match=f"cannot listen on {registry.endpoint}: .*in use"):
        start_registry(registry.endpoint)


def test_nothing_is_left_open_after_close(start_registry, join, free_port):
    def once():
        registry = start_registry()
        away = f"tcp://127.0.0.1:{free_port()}"
        for name in "ab":
            join(name, registry.endpoint, away).member.close()
        with pytest.raises(JoinFailed):
            join("c", away, seconds=0.2)
        with pytest.raises(MemPoolError):
            start_registry(registry.endpoint)
        registry.close()

    once()
    process = psutil.Process()
    fds = process.num_fds()
    for _ in range(5):
        once()
    assert process.num_fds() <= fds
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mempool-")]
