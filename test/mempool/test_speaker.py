"""Who speaks, as ZeroMQ's sockets know it."""

import threading

import pytest
import zmq

from mempool.speaker import Speaker, speaker_of


@pytest.fixture
def context(open_things):
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)
    return context


@pytest.fixture
def names(context):
    """A ZAP handler that takes everybody for whom they say they are."""
    handler = context.socket(zmq.REP)
    handler.rcvtimeo = 10_000
    handler.bind("inproc://zeromq.zap.01")

    def answer():
        version, number, *_, user, _ = handler.recv_multipart()
        handler.send_multipart([version, number, b"200", b"OK", user, b""])

    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()


def heard(context, routing_id, **sender):
    server, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    server.rcvtimeo = 20_000
    if sender:
        server.plain_server = True
    if routing_id:
        client.routing_id = routing_id
    for option, value in sender.items():
        setattr(client, option, value)
    client.connect(f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}")
    client.send(b"x")
    return speaker_of(server.recv_multipart(copy=False)[0])


@pytest.mark.parametrize("routing_id", [b"", b"a/1"])
def test_a_socket_that_asks_for_no_key_knows_the_host_alone(context, routing_id):
    speaker = heard(context, routing_id)
    assert speaker == Speaker("127.0.0.1", None)
    assert speaker.may_be("a")
    assert speaker.may_be("b")


@pytest.mark.parametrize(
    ("routing_id", "name"), [(b"a/1", "a"), (b"x/y:1/2f", "x/y:1"), (b"\xff/1", "\ufffd")]
)
def test_who_has_shown_the_key_speaks_as_the_name_it_connected_with(context, names, routing_id, name):
    speaker = heard(context, routing_id, plain_username=b"member", plain_password=b"x")
    assert speaker == Speaker("127.0.0.1", name)
    assert speaker.may_be(name)
    assert not speaker.may_be("b")
    assert not speaker.may_be("member")


@pytest.mark.parametrize("routing_id", [b"", b"a", b"/1"])
def test_who_has_shown_the_key_and_gives_no_name_may_claim_any(context, names, routing_id):
    speaker = heard(context, routing_id, plain_username=b"member", plain_password=b"x")
    assert speaker == Speaker("127.0.0.1", None)


def test_a_slash_in_an_id_of_zeromqs_own_makes_no_name():
    class MadeUp:
        bytes = b"\0?|/\x01"

        def get(self, name):
            return "a member" if name == "User-Id" else "127.0.0.1"

    assert speaker_of(MadeUp()) == Speaker("127.0.0.1", None)
