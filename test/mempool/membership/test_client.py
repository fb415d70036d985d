"""What a member makes of registries that are away, restarted or not registries at all."""

import pytest
import zmq
from waiting import until

from mempool.membership.client import MembershipClient
from mempool.membership.errors import JoinFailed
from mempool.membership.messages import (
    Change,
    ChangeKind,
    ChangeNotice,
    HeartbeatAck,
    Join,
    MembershipSnapshot,
    MemberStatus,
    Reason,
    Refusal,
    decode_to_registry,
    encode,
)


class FakeRegistry:
    """Says what the test wants said."""

    def __init__(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.peer = None

    def wait_join(self):
        while True:
            self.peer, frame = self.socket.recv_multipart()
            message = decode_to_registry(frame)
            if isinstance(message, Join):
                return message

    def say(self, *messages):
        for message in messages:
            self.socket.send_multipart(
                [self.peer, message if isinstance(message, bytes) else encode(message)]
            )


@pytest.fixture
def fake(open_things):
    registry = FakeRegistry()
    open_things.callback(registry.context.destroy)
    return registry


@pytest.mark.parametrize("loss", ["a change", "the last change"])
def test_a_lost_change_is_asked_for_again(start_registry, join, fake, make_info, loss):
    a = join("a", start_registry().endpoint, fake.endpoint)
    fake.wait_join()
    fake.say(MembershipSnapshot(1, 5, (MemberStatus(make_info("x")),), True))
    a.wait_for_changes("x", "joined")
    later = ChangeNotice(7, Change(ChangeKind.JOINED, make_info("z")))
    fake.say(later if loss == "a change" else HeartbeatAck(6))
    fake.wait_join()
    fake.say(MembershipSnapshot(1, 7, (MemberStatus(make_info("y")), MemberStatus(make_info("z"))), True))
    for name in "yz":
        a.wait_for_changes(name, "joined")
    a.wait_for_changes("x", "joined", "died")


def test_one_that_is_no_registry_is_let_go_and_tried_again(start_registry, join, fake):
    a = join("a", start_registry().endpoint, fake.endpoint)
    peers = set()
    for junk in (b"\xff\xfe", encode(Join(a.member.info, bytes(16))), b""):
        fake.wait_join()
        peers.add(fake.peer)
        fake.say(junk)
    assert len(peers) == 3, "it goes on with a connection that said junk"
    assert a.fenced == []


def test_a_callback_that_raises_does_not_end_the_membership(start_registry, join, open_things, make_info):
    registry = start_registry()

    def refuse(change):
        raise RuntimeError("not now")

    member = MembershipClient(
        make_info("a"),
        [registry.endpoint],
        on_change=refuse,
        on_fenced=print,
        on_stopped=print,
        heartbeat_s=0.1,
    )
    open_things.callback(member.close)
    member.join()
    b = join("b", registry.endpoint)
    c = join("c", registry.endpoint)
    b.wait_for_changes("c", "joined")
    c.member.close()
    b.wait_for_changes("c", "joined", "left")
    assert set(b.member.members) == {"a"}


def test_one_registry_of_two_is_enough_and_the_other_joins_later(start_registry, join, free_port):
    away, here = f"tcp://127.0.0.1:{free_port()}", start_registry()
    a = join("a", away, here.endpoint)
    late = start_registry(away)
    b = join("b", late.endpoint)
    a.wait_for_changes("b", "joined")
    b.wait_for_changes("a", "joined")


def test_a_join_that_no_registry_answers_says_what_was_tried(join, free_port):
    away = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(JoinFailed, match=f"no registry took a in 0.3 s .{away}: cannot connect"):
        join("a", away, seconds=0.3)


@pytest.mark.parametrize("registries", [[], ["nowhere"], ["tcp://127.0.0.1:0"]])
def test_registries_that_are_none_are_refused_at_once(registries, make_info):
    with pytest.raises(ValueError, match=r"needs|not an endpoint"):
        MembershipClient(make_info("a"), registries, on_change=print, on_fenced=print, on_stopped=print)


@pytest.mark.parametrize("raises", [False, True])
def test_the_fenced_give_up_their_state_before_they_join_anew_or_stay_out(
    fake, make_info, open_things, raises
):
    order = []

    def fenced(old, new):
        order.append(("fenced", old, new))
        if raises:
            raise RuntimeError("cannot")

    member = MembershipClient(
        make_info("a", 5),
        [fake.endpoint],
        on_change=print,
        on_fenced=fenced,
        on_stopped=lambda error: order.append("stopped"),
        heartbeat_s=0.1,
    )
    open_things.callback(member.close)
    member._thread.start()
    first = fake.wait_join()
    fake.say(MembershipSnapshot(1, 1, (), True), Refusal(5, Reason.DEAD))
    until(lambda: order, "the member hears that it is dead")
    new = order[0][2]
    if raises:
        until(lambda: order[1:] == ["stopped"], "it stops")
        until(lambda: not member._thread.is_alive(), "its thread ends")
    else:
        rejoin = fake.wait_join()
        assert (rejoin.info.incarnation, rejoin.process) == (new, first.process)
        assert member.info.incarnation == new != 5
