"""Who has blocks encrypted, and what two instances that do not agree are told."""

import pytest
import torch

from mempool.encryption import Encryption
from mempool.errors import MemPoolError, Refused


@pytest.mark.parametrize(
    ("url", "auto"),
    [
        ("stream://127.0.0.1:0", False),
        ("stream://127.8.9.1:7000", False),
        ("stream://[::1]:0", False),
        ("stream://localhost:0", False),
        ("inproc://here", False),
        ("ipc:///tmp/here", False),
        ("stream://10.0.0.1:0", True),
        ("stream://0.0.0.0:0", True),
        ("stream://[::]:0", True),
        ("stream://host.example:7000", True),
        ("tcp://192.168.0.1:0", True),
    ],
)
def test_by_default_blocks_are_encrypted_where_they_leave_the_machine(url, auto):
    assert Encryption.AUTO.applies_at(url) is auto
    assert Encryption.ON.applies_at(url)
    assert not Encryption.OFF.applies_at(url)


def test_a_sender_that_encrypts_sends_nothing_without_a_key(make_paged, make_channel):
    """The receiver hears of it as well, and waits no longer."""
    channel = make_channel(make_paged(8, seed=1), make_paged(8), to_sender={"encrypt": True})
    transfer, there, here = channel.begin([2])
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1, b"cookie")
    error = here.wait().error
    assert isinstance(error, Refused)
    for each in (error, there.wait().error):
        assert "encryption is on at the sender and off at the receiver" in str(each)
        assert "--memserve-encrypt" in str(each)
    assert channel.receiver.bytes_received == channel.sender.messages_sent == 0


def test_a_receiver_that_encrypts_expects_nothing_without_a_key(make_paged, make_channel):
    receiver = make_channel(make_paged(4), make_paged(4), encrypt=True).receiver
    with pytest.raises(MemPoolError, match="new_key"):
        receiver.expect(make_paged(4), torch.tensor([1]), lambda private: None, lambda error: None)


def test_a_sender_that_does_not_insist_encrypts_for_a_receiver_that_does(make_paged, make_channel):
    channel = make_channel(make_paged(8, seed=1), make_paged(8), encrypt=True)
    channel.carry_one(3)
    assert len({channel.receiver.new_key() for _ in range(10)}) == 10


def test_what_is_sent_stays_as_it_was(make_paged, make_channel, tools):
    """Encrypted on the way, and not where it is stored."""
    channel = make_channel(make_paged(8, seed=1), make_paged(8), encrypt=True)
    before = tools.blocks_of(channel.source, list(range(8)))
    channel.carry_one(3)
    assert torch.equal(tools.blocks_of(channel.source, list(range(8))), before)


def test_nothing_in_clear_stands_where_it_is_sent_from(make_paged, make_channel, tools):
    """A forged answer gives that memory back too early: what is gathered there next would be on the wire."""
    # A seed of its own: memory that another test has let go still has what that sent.
    channel = make_channel(make_paged(8, seed=77), make_paged(8), encrypt=True)
    channel.carry_one(3)
    (peer,) = channel.sender._peers.values()
    (staging,) = peer._staging.values()
    sent_from = staging.ring._memory.numpy().tobytes()
    block = tools.blocks_of(channel.source, [1]).numpy().tobytes()
    assert all(block[at : at + 64] not in sent_from for at in range(0, len(block), 64))
