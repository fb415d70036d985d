"""The block channel over real sockets."""

from pathlib import Path

import pytest
import torch
import zmq

from mempool import wire
from mempool.errors import FrameError, PeerDied, Refused
from mempool.sockets import SocketLimits
from mempool.transfer.receiver import BlockReceiver

LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture(params=[False, True], ids=["clear", "encrypted"])
def encrypt(request):
    return request.param


@pytest.fixture
def channel(make_paged, make_channel, encrypt):
    """Three blocks a message, two messages a window."""
    source, target = make_paged(64, seed=5), make_paged(64)
    size = 3 * source.layout.block_bytes
    return make_channel(
        source,
        target,
        to_sender={"piece_bytes": size},
        to_receiver={"window_bytes": 2 * size},
        encrypt=encrypt,
    )


@pytest.fixture
def small(make_paged, make_channel, encrypt):
    return make_channel(make_paged(8, seed=1), make_paged(8), encrypt=encrypt)


def nobody():
    """An endpoint where nobody listens."""
    with zmq.Context() as context, context.socket(zmq.PULL) as placeholder:
        port = placeholder.bind_to_random_port("tcp://127.0.0.1")
    return f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_receiver_listens_on_either_kind_of_address(make_paged, make_channel, host):
    if host == "[::1]" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    make_channel(make_paged(4), make_paged(4), url=f"tcp://{host}:0").carry_one(1)


def test_blocks_arrive_in_many_chunks_with_the_cookie(channel, tools):
    src, dst = list(range(20, 0, -1)), list(range(30, 50))
    transfer, there, here = channel.begin(dst)
    transfer.send(torch.tensor(src[:13]), 0)
    transfer.send(torch.tensor(src[13:]), 13)
    transfer.finish(20, b"cookie")
    assert here.wait().error is None
    assert there.wait().private == b"cookie"
    assert torch.equal(tools.blocks_of(channel.target, dst), tools.blocks_of(channel.source, src))
    size = 20 * channel.source.layout.block_bytes
    assert channel.sender.bytes_sent == channel.receiver.bytes_received == size
    assert channel.sender.messages_sent == 5 + 3


def test_an_empty_transfer_still_delivers_its_cookie(channel):
    transfer, there, here = channel.begin([])
    transfer.finish(0, b"aux")
    assert there.wait().private == b"aux"
    assert here.wait().error is None


def test_many_transfers_at_once_keep_apart(channel, tools):
    plans = [([2 * i + 1, 2 * i + 2], [60 - 2 * i, 59 - 2 * i]) for i in range(20)]
    running = []
    for src, dst in plans:
        transfer, there, here = channel.begin(dst)
        transfer.send(torch.tensor(src), 0)
        transfer.finish(2)
        running.append((there, here))
    for there, here in running:
        assert here.wait().error is None
        there.wait()
    for src, dst in plans:
        assert torch.equal(tools.blocks_of(channel.target, dst), tools.blocks_of(channel.source, src))


def test_the_sender_waits_until_the_pages_are_ready(channel):
    source, target = channel.source, channel.target
    transfer, _, here = channel.begin([4])
    answers = [False, False, True]

    def ready():
        for plane in source.engine_planes:
            plane[16:32] = 3 - answers.count(False)
        return answers.pop(0)

    transfer.send(torch.tensor([1]), 0, ready)
    transfer.finish(1)
    assert here.wait().error is None
    assert not answers
    assert all(bool((plane[4 * 16 : 5 * 16] == 3).all()) for plane in target.engine_planes)


def test_a_withdrawn_ticket_takes_no_more_bytes(channel):
    transfer, there, here = channel.begin([7, 8])
    channel.receiver.withdraw(transfer.ticket)
    transfer.send(torch.tensor([1, 2]), 0)
    transfer.finish(2)
    assert isinstance(here.wait().error, Refused)
    assert there.calls == 0
    assert all(bool((plane == 0).all()) for plane in channel.target.engine_planes)


def test_pages_that_are_never_ready_delay_nobody_else(channel):
    stuck, there, _ = channel.begin([7])
    stuck.send(torch.tensor([1]), 0, lambda: False)
    stuck.finish(1)
    elsewhere = BlockReceiver(LOCAL)
    channel.carry_one(1, receiver=elsewhere)
    elsewhere.close()

    channel.carry_one(2)
    follower, follower_there, _ = channel.begin([8])
    follower.fail("given up behind it")
    assert "given up" in str(follower_there.wait().error)
    stuck.fail("enough")
    assert "enough" in str(there.wait().error)
    channel.carry_one(9)


def test_pages_whose_readiness_raises_fail_their_own_transfer(channel):
    broken, there, here = channel.begin([7])
    broken.send(torch.tensor([1]), 0, lambda: 1 / 0)
    assert "division" in str(here.wait().error)
    assert "division" in str(there.wait().error)
    channel.carry_one(9)


def test_a_sender_that_gives_up_tells_the_receiver_why(channel):
    transfer, there, here = channel.begin([7, 8])
    transfer.send(torch.tensor([1]), 0)
    transfer.fail("the client went away")
    assert "the client went away" in str(there.wait().error)
    transfer.finish(1)
    assert here.calls == 0
    assert there.calls == 1


@pytest.mark.parametrize(("first", "count", "total"), [(1, 1, 2), (0, 3, 3), (0, 1, 1), (0, 2, 3)])
def test_blocks_that_do_not_fit_their_ticket_fail_it_on_both_sides(channel, first, count, total):
    transfer, there, here = channel.begin([7, 8])
    transfer.send(torch.arange(1, count + 1), first)
    transfer.finish(total)
    assert isinstance(here.wait().error, Refused)
    there.wait()
    assert there.calls == 1
    assert there.error is not None


def test_nobody_at_the_endpoint_ends_the_transfer(channel, tools):
    here = tools.Outcome()
    transfer = channel.sender.open(channel.source, nobody(), 5, here.ended)
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1)
    assert isinstance(here.wait().error, PeerDied)


def test_a_closed_receiver_fails_transfers_and_a_new_one_is_served(small):
    first = BlockReceiver(LOCAL)
    transfer, _, here = small.begin([1, 2], receiver=first)
    transfer.send(torch.tensor([1]), 0)
    # The second block is never sent, so the transfer is under way for as long as the test wants.
    small.carry_one(3, receiver=first)
    first.close()
    transfer.send(torch.tensor([2]), 1)
    assert isinstance(here.wait().error, PeerDied)
    small.carry_one(1)


def test_a_receiver_that_dies_before_anything_was_sent_fails_the_transfer(small):
    first = BlockReceiver(LOCAL)
    _, _, here = small.begin([1, 2], receiver=first)
    small.carry_one(3, receiver=first)
    first.close()
    assert isinstance(here.wait().error, PeerDied)


def test_a_sender_that_closes_fails_what_it_had_begun_and_nothing_else(small, make_paged, make_channel):
    """Also where it has not sent a block yet."""
    other = make_channel(make_paged(8), make_paged(8))
    _, there, _ = other.begin([1, 2], receiver=small.receiver)
    other.carry_one(3, receiver=small.receiver)
    other.sender.close()
    assert isinstance(there.wait().error, PeerDied)
    small.carry_one(1)
    other.sender.close = lambda: None


@pytest.mark.parametrize("welcomes", [True, False])
def test_a_silent_receiver_is_dead_after_the_limit(make_paged, make_channel, mute, tools, welcomes):
    silent, here = mute(), tools.Outcome()
    limits = SocketLimits(silence_s=0.4)
    channel = make_channel(make_paged(8), make_paged(8), to_sender={"limits": limits})
    transfer = channel.sender.open(channel.source, silent.endpoint, 5, here.ended)
    transfer.send(torch.tensor([1]), 0)
    if welcomes:
        silent.greet()
    error = here.wait().error
    assert isinstance(error, PeerDied)
    assert "silent" in str(error)
    channel.carry_one(1)


def test_a_receiver_grants_how_much_may_be_under_way(make_paged, make_channel, mute):
    source = make_paged(64, seed=1)
    size = source.layout.block_bytes
    channel = make_channel(source, make_paged(8), to_sender={"piece_bytes": size})
    slow = mute(window_bytes=3 * size)
    transfer = channel.sender.open(source, slow.endpoint, 5, lambda error: None)
    transfer.send(torch.arange(40), 0)
    slow.greet()
    begin, *blocks = [slow.receive()[1][0] for _ in range(4)]
    assert isinstance(begin, wire.Begin)
    assert [part.first for part in blocks] == [0, 1, 2]
    assert not slow.socket.poll(200)
    channel.carry_one(1)
    for part in (begin, blocks[0]):
        slow.say(wire.Ack(5, part.seq))
    assert slow.receive()[1][0].first == 3
    assert not slow.socket.poll(200)


def test_a_sender_keeps_to_its_own_bound_where_the_receiver_grants_more(make_paged, make_channel, mute):
    source = make_paged(64, seed=1)
    size = source.layout.block_bytes
    sender = {"piece_bytes": size, "window_bytes": 2 * size}
    channel = make_channel(source, make_paged(8), to_sender=sender)
    generous = mute(window_bytes=1 << 62)
    transfer = channel.sender.open(source, generous.endpoint, 5, lambda error: None)
    transfer.send(torch.arange(40), 0)
    generous.greet()
    assert [type(generous.receive()[1][0]) for _ in range(3)] == [wire.Begin, wire.Blocks, wire.Blocks]
    assert not generous.socket.poll(200)


@pytest.mark.parametrize("how", ["the receiver's version", "the sender's version"])
def test_another_version_of_the_channel_is_refused_by_name(make_paged, make_channel, mute, tools, how):
    channel = make_channel(make_paged(4), make_paged(4), url="tcp://127.0.0.1:0")
    if how == "the receiver's version":
        newer, here = mute(version=wire.VERSION + 1), tools.Outcome()
        channel.sender.open(channel.source, newer.endpoint, 5, here.ended)
        newer.greet()
        error = here.wait().error
        assert isinstance(error, Refused)
        reason = str(error)
    else:
        with zmq.Context() as context, context.socket(zmq.DEALER) as newer:
            newer.connect(channel.receiver.endpoint)
            newer.send(wire.encode(wire.ChannelHello(wire.VERSION + 1)))
            reason = wire.decode_to_sender(newer.recv()).reason
    assert f"version {wire.VERSION + 1} of the block channel, this instance version {wire.VERSION}" in reason
    channel.carry_one(1)


def test_a_receiver_whose_connection_broke_hears_of_the_failure(channel):
    """As after a partition: the receiver is well, and would wait for blocks that nobody sends any more."""
    transfer, there, here = channel.begin([7, 8])
    transfer.send(torch.tensor([1]), 0)
    channel.carry_one(9)
    peer = channel.sender._peers[channel.receiver.endpoint]
    peer._apply = lambda message: (_ for _ in ()).throw(FrameError("cut"))
    transfer.send(torch.tensor([2]), 1)
    assert isinstance(here.wait().error, PeerDied)
    assert "cut" in str(there.wait().error) or isinstance(there.error, PeerDied)


def test_one_bad_transfer_ends_neither_thread(channel, tools):
    for endpoint in ("tcp://nonsense", "inproc://", ""):
        here = tools.Outcome()
        channel.sender.open(channel.source, endpoint, 1, here.ended)
        assert isinstance(here.wait().error, PeerDied)
    pages = torch.tensor([1])
    key = channel.receiver.new_key()
    ticket = channel.receiver.expect(
        channel.target, pages, lambda private: 1 / 0, lambda error: None, key=key
    )
    here = tools.Outcome()
    raising = channel.sender.open(channel.source, channel.receiver.endpoint, ticket, here.ended)
    raising.send(pages, 0)
    raising.finish(1)
    assert isinstance(here.wait().error, Refused)
    channel.carry_one(2)
