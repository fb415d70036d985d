"""The block channel over real sockets."""

import threading
from pathlib import Path

import pytest
import torch
import zmq

from mempool import wire
from mempool.errors import FrameError, PeerDied, Refused
from mempool.transfer import peer as peer_module
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender


class Outcome:
    """What became of one side of a transfer."""

    def __init__(self):
        self.happened = threading.Event()
        self.private = self.error = None
        self.calls = 0

    def done(self, private=None):
        self.private, self.calls = private, self.calls + 1
        self.happened.set()

    def ended(self, error):
        self.error, self.calls = error, self.calls + 1
        self.happened.set()

    def wait(self):
        assert self.happened.wait(20), "the transfer never ended"
        return self


@pytest.fixture
def channel(make_paged):
    source, target = make_paged(64, seed=5), make_paged(64)
    sender = BlockSender(source, piece_bytes=3 * source.layout.block_bytes, window=2)
    receiver = BlockReceiver(target, "127.0.0.1")
    yield source, target, sender, receiver
    sender.close()
    receiver.close()


def blocks_of(buffers, pages):
    out = buffers.host_blocks(len(pages))
    buffers.gather(torch.tensor(pages), out)
    return out


def begin(sender, receiver, pages):
    """A transfer into `pages`, and the outcomes at the receiver and at the sender."""
    there, here = Outcome(), Outcome()
    ticket = receiver.expect(torch.tensor(pages, dtype=torch.int64), there.done, there.ended)
    return sender.open(receiver.endpoint, ticket, here.ended), there, here


def carry_one(sender, receiver, page):
    """A transfer of one block, which both sides must see succeed."""
    transfer, there, here = begin(sender, receiver, [page])
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1)
    assert here.wait().error is None
    assert there.wait().error is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_receiver_listens_on_either_kind_of_address(make_paged, host):
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    sender, receiver = BlockSender(make_paged(4)), BlockReceiver(make_paged(4), host)
    carry_one(sender, receiver, 1)
    sender.close()
    receiver.close()


def test_blocks_arrive_in_many_chunks_with_the_cookie(channel):
    source, target, sender, receiver = channel
    src, dst = list(range(20, 0, -1)), list(range(30, 50))
    transfer, there, here = begin(sender, receiver, dst)
    transfer.send(torch.tensor(src[:13]), 0)
    transfer.send(torch.tensor(src[13:]), 13)
    transfer.finish(20, b"cookie")
    assert here.wait().error is None
    assert there.wait().private == b"cookie"
    assert torch.equal(blocks_of(target, dst), blocks_of(source, src))
    assert sender.bytes_sent == receiver.bytes_received == 20 * source.layout.block_bytes


def test_an_empty_transfer_still_delivers_its_cookie(channel):
    _, _, sender, receiver = channel
    transfer, there, here = begin(sender, receiver, [])
    transfer.finish(0, b"aux")
    assert there.wait().private == b"aux"
    assert here.wait().error is None


def test_many_transfers_at_once_keep_apart(channel):
    source, target, sender, receiver = channel
    plans = [([2 * i + 1, 2 * i + 2], [60 - 2 * i, 59 - 2 * i]) for i in range(20)]
    running = []
    for src, dst in plans:
        transfer, there, here = begin(sender, receiver, dst)
        transfer.send(torch.tensor(src), 0)
        transfer.finish(2)
        running.append((there, here))
    for there, here in running:
        assert here.wait().error is None
        there.wait()
    for src, dst in plans:
        assert torch.equal(blocks_of(target, dst), blocks_of(source, src))


def test_the_sender_waits_until_the_pages_are_ready(channel):
    source, target, sender, receiver = channel
    transfer, _, here = begin(sender, receiver, [4])
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
    _, target, sender, receiver = channel
    transfer, there, here = begin(sender, receiver, [7, 8])
    receiver.withdraw(transfer.ticket)
    transfer.send(torch.tensor([1, 2]), 0)
    transfer.finish(2)
    assert isinstance(here.wait().error, Refused)
    assert there.calls == 0
    assert all(bool((plane == 0).all()) for plane in target.engine_planes)


def test_pages_that_are_never_ready_delay_nobody_else(channel, make_paged):
    _, _, sender, receiver = channel
    stuck, there, _ = begin(sender, receiver, [7])
    stuck.send(torch.tensor([1]), 0, lambda: False)
    elsewhere = BlockReceiver(make_paged(4), "127.0.0.1")
    carry_one(sender, elsewhere, 1)
    elsewhere.close()

    behind, behind_there, _ = begin(sender, receiver, [8])
    behind.fail("given up behind it")
    assert "given up" in str(behind_there.wait().error)
    stuck.fail("enough")
    assert "enough" in str(there.wait().error)
    carry_one(sender, receiver, 9)


def test_a_sender_that_gives_up_tells_the_receiver_why(channel):
    _, _, sender, receiver = channel
    transfer, there, here = begin(sender, receiver, [7, 8])
    transfer.send(torch.tensor([1]), 0)
    transfer.fail("the client went away")
    assert "the client went away" in str(there.wait().error)
    transfer.finish(1)
    assert here.calls == 0
    assert there.calls == 1


@pytest.mark.parametrize(("first", "count", "total"), [(1, 1, 2), (0, 3, 3), (0, 1, 1)])
def test_blocks_that_do_not_fit_their_ticket_fail_it_on_both_sides(channel, first, count, total):
    _, _, sender, receiver = channel
    transfer, there, here = begin(sender, receiver, [7, 8])
    transfer.send(torch.arange(1, count + 1), first)
    transfer.finish(total)
    assert isinstance(here.wait().error, Refused)
    there.wait()
    assert there.calls == 1
    assert there.error is not None


def test_nobody_at_the_endpoint_ends_the_transfer(make_paged):
    sender = BlockSender(make_paged(4))
    with zmq.Context().socket(zmq.PULL) as placeholder:
        port = placeholder.bind_to_random_port("tcp://127.0.0.1")
        placeholder.unbind(f"tcp://127.0.0.1:{port}")
        here = Outcome()
        transfer = sender.open(f"tcp://127.0.0.1:{port}", 5, here.ended)
        transfer.send(torch.tensor([1]), 0)
        transfer.finish(1)
        assert isinstance(here.wait().error, PeerDied)
    sender.close()


def test_a_receiver_that_closes_fails_what_was_under_way_and_a_new_one_is_served(make_paged):
    sender, first = BlockSender(make_paged(8, seed=1)), BlockReceiver(make_paged(8), "127.0.0.1")
    transfer, _, here = begin(sender, first, [1, 2])
    transfer.send(torch.tensor([1]), 0)
    # The second block is never sent, so the transfer is under way for as long as the test wants.
    other, _, other_here = begin(sender, first, [3])
    other.send(torch.tensor([1]), 0)
    other.finish(1)
    assert other_here.wait().error is None
    first.close()
    transfer.send(torch.tensor([2]), 1)
    assert isinstance(here.wait().error, PeerDied)

    second = BlockReceiver(make_paged(8), "127.0.0.1")
    carry_one(sender, second, 1)
    sender.close()
    second.close()


def test_a_receiver_that_dies_before_anything_was_sent_fails_the_transfer(make_paged):
    sender, receiver = BlockSender(make_paged(8)), BlockReceiver(make_paged(8), "127.0.0.1")
    _, _, here = begin(sender, receiver, [1, 2])
    other, _, other_here = begin(sender, receiver, [])
    other.finish(0)
    assert other_here.wait().error is None
    receiver.close()
    assert isinstance(here.wait().error, PeerDied)
    sender.close()


def test_a_silent_receiver_is_dead_after_the_limit(make_paged, monkeypatch):
    monkeypatch.setattr(peer_module, "SILENCE_IS_DEATH_SECONDS", 0.2)
    sender = BlockSender(make_paged(8))
    with zmq.Context().socket(zmq.ROUTER) as mute:
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        here = Outcome()
        transfer = sender.open(f"tcp://127.0.0.1:{port}", 5, here.ended)
        transfer.send(torch.tensor([1]), 0)
        transfer.finish(1)
        error = here.wait().error
        assert isinstance(error, PeerDied)
        assert "silent" in str(error)
    sender.close()


def test_the_window_bounds_what_a_mute_receiver_is_sent(make_paged):
    source = make_paged(64, seed=1)
    sender = BlockSender(source, piece_bytes=source.layout.block_bytes, window=3)
    with zmq.Context().socket(zmq.ROUTER) as mute:
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        transfer = sender.open(f"tcp://127.0.0.1:{port}", 5, lambda error: None)
        transfer.send(torch.arange(40), 0)
        for _ in range(3):
            assert mute.poll(5000)
            mute.recv_multipart()
        assert not mute.poll(200)
    sender.close()


def test_a_receiver_whose_connection_broke_hears_of_the_failure(channel):
    """As after a partition: the receiver is well, and would wait for blocks that nobody sends any more."""
    _, _, sender, receiver = channel
    transfer, there, here = begin(sender, receiver, [7, 8])
    transfer.send(torch.tensor([1]), 0)
    other, _, other_here = begin(sender, receiver, [])
    other.finish(0)
    assert other_here.wait().error is None
    peer = sender._peers[receiver.endpoint]
    peer._apply = lambda frames: (_ for _ in ()).throw(FrameError("cut"))
    transfer.send(torch.tensor([2]), 1)
    assert isinstance(here.wait().error, PeerDied)
    assert "cut" in str(there.wait().error)


def test_one_bad_transfer_ends_neither_thread(channel):
    _, _, sender, receiver = channel
    for endpoint in ("tcp://nonsense", "inproc://", ""):
        here = Outcome()
        sender.open(endpoint, 1, here.ended)
        assert isinstance(here.wait().error, PeerDied)
    ticket = receiver.expect(torch.tensor([1]), lambda private: 1 / 0, lambda error: None)
    here = Outcome()
    raising = sender.open(receiver.endpoint, ticket, here.ended)
    raising.send(torch.tensor([1]), 0)
    raising.finish(1)
    assert isinstance(here.wait().error, Refused)
    carry_one(sender, receiver, 2)


def test_garbage_is_counted_and_the_channel_goes_on(channel):
    source, _, sender, receiver = channel
    with zmq.Context().socket(zmq.DEALER) as stranger:
        stranger.connect(receiver.endpoint)
        stranger.send(b"not msgpack \xff")
        stranger.send_multipart([b"a", b"b", b"c"])
        stranger.send(wire.encode({"type": "blocks", "ticket": -1, "seq": 0, "first": 0, "count": 1}))
        stranger.send_multipart([wire.encode(wire.Blocks(1, 0, 0, 0)), b""])
        stranger.send_multipart([wire.encode(wire.Blocks(12345, 0, 0, 1)), b"x" * source.layout.block_bytes])
        answer = wire.decode_to_sender(stranger.recv())
        assert isinstance(answer, wire.Refuse)
    assert receiver.bad_frames == 4
    carry_one(sender, receiver, 1)
