"""What carries the channel's messages, by URL; each notices that the other end is gone."""

import time

import pytest
import torch

from mempool.errors import MemPoolError, PeerDied
from mempool.sockets import SocketLimits
from mempool.transfer.receiver import BlockReceiver
from mempool.transports.inproc import InProcess
from mempool.transports.registry import Transports
from mempool.wire import MAX_HEADER_BYTES


@pytest.fixture(params=["shm", "stream", "tcp", "ipc", "inproc"])
def url(request, tmp_path):
    urls = {
        "shm": "shm://",
        "stream": "stream://127.0.0.1:0",
        "tcp": "tcp://127.0.0.1:0",
        "ipc": f"ipc://{tmp_path}/s",
        "inproc": "inproc://here",
    }
    return urls[request.param]


@pytest.fixture(params=[False, True], ids=["clear", "encrypted"])
def channel(request, url, make_paged, make_channel):
    shared = {"transports": Transports()}
    source = make_paged(32, seed=1)
    size = source.layout.block_bytes
    return make_channel(
        source,
        make_paged(32),
        url=url,
        to_sender={"piece_bytes": size, **shared},
        to_receiver=shared,
        encrypt=request.param,
    )


def other_receiver(channel, url):
    return BlockReceiver(
        url if url.endswith((":0", "shm://")) else url + "2", transports=channel.sender._transports
    )


def test_blocks_arrive(channel, tools):
    transfer, there, here = channel.begin(list(range(20)))
    transfer.send(torch.arange(20), 0)
    transfer.finish(20, b"cookie")
    assert here.wait().error is None
    assert there.wait().private == b"cookie"
    pages = list(range(20))
    assert torch.equal(tools.blocks_of(channel.target, pages), tools.blocks_of(channel.source, pages))


def test_a_receiver_that_closes_is_dead_at_once_and_others_are_served(channel, url):
    first = other_receiver(channel, url)
    _, _, here = channel.begin([1, 2], receiver=first)
    channel.carry_one(3, receiver=first)
    first.close()
    assert isinstance(here.wait().error, PeerDied)
    channel.carry_one(4)


def test_a_sender_that_closes_is_dead_at_once_and_others_are_served(channel, url, make_channel):
    shared = {"transports": channel.sender._transports}
    other = make_channel(
        channel.source, channel.target, url=other_receiver_url(url), to_sender=shared, to_receiver=shared
    )
    _, there, _ = other.begin([1, 2], receiver=channel.receiver)
    other.carry_one(3, receiver=channel.receiver)
    other.sender.close()
    assert isinstance(there.wait().error, PeerDied)
    channel.carry_one(4)
    other.sender.close = lambda: None


def other_receiver_url(url):
    return url if url.endswith((":0", "shm://")) else url + "2"


def test_an_endpoint_where_nobody_listens_is_dead(channel, tools, url):
    gone = other_receiver(channel, url)
    gone.close()
    here = tools.Outcome()
    channel.sender.open(channel.source, gone.endpoint, 1, here.ended)
    assert isinstance(here.wait().error, PeerDied)


def test_an_endpoint_is_free_again_once_its_listener_closed(channel, url, tools):
    for _ in range(3):
        again = other_receiver(channel, url)
        channel.carry_one(3, receiver=again)
        again.close()
        tools.until(lambda again=again: again.endpoint not in channel.sender._peers)


def test_a_listener_that_closes_while_a_connection_looks_is_noticed(monkeypatch):
    """The loss comes just before the wakeup is cleared, and wakes nobody: that look has to see it."""
    transports = InProcess()
    listener = transports.listen("inproc://here", SocketLimits(), 1 << 20)
    connection = transports.connect(listener.endpoint, SocketLimits())
    clear = connection._wakeup.clear
    monkeypatch.setattr(connection._wakeup, "clear", lambda: (listener.close(), clear()))
    with pytest.raises(PeerDied):
        connection.receive()
    connection.close()


def test_messages_come_in_order_from_each_and_a_goodbye_last(url):
    transports = Transports()
    listener = transports.listen(url, SocketLimits(), 1 << 20)
    connections = [transports.connect(listener.endpoint, SocketLimits()) for _ in range(3)]
    from_each, gone = {}, set()
    for number, connection in enumerate(connections):
        wait_for(lambda connection=connection: connection.receive() is None and connection.opened)
        digits = sendable(connection, b"0123456789")
        assert all(connection.send([b"%d" % number, digits[count : count + 1]]) for count in range(10))

    def take():
        received = listener.receive()
        while received is not None:
            if hasattr(received, "frames"):
                from_each.setdefault(received.source, []).append([bytes(frame) for frame in received.frames])
                listener.send(received.source, b"answer")
            else:
                gone.add(received.source)
            received = listener.receive()

    wait_for(lambda: take() or sum(map(len, from_each.values())) == 30)
    for messages in from_each.values():
        assert messages == [[messages[0][0], b"%d" % count] for count in range(10)]
    assert not gone
    answers = [0, 0, 0]
    for number, connection in enumerate(connections):

        def answered(number=number, connection=connection):
            answers[number] += connection.receive() is not None
            return answers[number] == 10

        wait_for(answered)
        connection.close()
    wait_for(lambda: take() or gone == set(from_each))
    listener.close()


def sendable(connection, data):
    """The data, where the connection can send it from."""
    if connection.memory is None:
        return memoryview(data)
    region = connection.memory.allocate(len(data))
    region.bytes[:] = list(data)
    return region.bytes.data


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def test_a_frame_that_is_too_large_costs_its_connection(url):
    transports = Transports()
    listener = transports.listen(url, SocketLimits(), 1000)
    connection = transports.connect(listener.endpoint, SocketLimits())
    wait_for(lambda: connection.receive() is None and connection.opened)
    connection.send([b"x" * 2000])
    with pytest.raises(PeerDied):
        wait_for(lambda: (listener.receive(), connection.receive())[1] is not None)
    assert MAX_HEADER_BYTES > 2000
    connection.close()
    listener.close()


def test_an_unknown_scheme_is_refused_with_those_that_are_known():
    for url in ("carrier-pigeon://coop", "nonsense", ""):
        with pytest.raises(MemPoolError, match=r"known are inproc://, ipc://, shm://, stream://, tcp://"):
            BlockReceiver(url)


@pytest.mark.parametrize(
    "url",
    [
        "ipc://relative/path",
        "tcp://no.such.host.at.all:1",
        "inproc://",
        "stream://no.such.host.at.all:1",
        "stream://127.0.0.1",
        "shm://here",
    ],
)
def test_a_url_at_which_nobody_can_listen_is_named(url):
    with pytest.raises(MemPoolError, match="cannot listen at"):
        BlockReceiver(url)


def test_another_transport_is_added_by_its_scheme(make_paged, make_channel):
    transports = Transports()

    class Renamed:
        """Another name for inproc."""

        def __init__(self):
            self.used = []

        def listen(self, url, limits, max_frame_bytes, place=None):
            self.used.append("listen")
            listener = transports.listen(url.replace("other", "inproc"), limits, max_frame_bytes, place)
            listener.endpoint = url
            return listener

        def connect(self, endpoint, limits):
            self.used.append("connect")
            return transports.connect(endpoint.replace("other", "inproc"), limits)

    renamed = Renamed()
    transports.register("other", renamed)
    shared = {"transports": transports}
    make_channel(
        make_paged(4, seed=1), make_paged(4), url="other://x", to_sender=shared, to_receiver=shared
    ).carry_one(1)
    assert renamed.used == ["listen", "connect"]
    with pytest.raises(MemPoolError, match="already"):
        transports.register("other", renamed)
