"""What a sender gave up, and wrote over, must not be taken for complete."""

import threading

import pytest
import torch

from mempool.arena import DramArena
from mempool.layout import BlockLayout
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)


class Channel:
    """A receiver of its own, with four blocks of memory."""

    def __init__(self, url, transports):
        self.receiver = BlockReceiver(url, transports=transports)
        self.target = DramArena(LAYOUT, 4)
        self.finished, self.ended = [], threading.Event()

    def begin(self, sender, source, block):
        """Starts to send a block of the source to the same block here."""
        self.ended.clear()
        ticket = self.receiver.expect(
            self.target,
            torch.tensor([block]),
            lambda private: self.finished.append(self.target.rows[block].clone()) or self.ended.set(),
            lambda error: self.ended.set(),
        )
        transfer = sender.open(source, self.receiver.endpoint, ticket, lambda error: None)
        transfer.send(torch.tensor([block]), 0)
        transfer.finish(1)
        return transfer

    def carry(self, sender, source, block):
        self.begin(sender, source, block)
        assert self.ended.wait(10)


@pytest.fixture
def channels(gated_transports):
    """Two channels, the first with a gate, and that gate."""
    transports, gates = gated_transports
    gated, other = Channel("gated://receiver", transports), Channel("inproc://other", transports)
    yield transports, gated, other, gates["gated://receiver"]
    gated.receiver.close()
    other.receiver.close()


def test_blocks_overwritten_after_a_failure_are_never_finished(channels):
    transports, gated, other, gate = channels
    source = DramArena(LAYOUT, 4)
    sender = BlockSender(transports=transports)
    try:
        source.rows.fill_(1)
        gated.carry(sender, source, 0)
        gate.shut()
        transfer = gated.begin(sender, source, 1)
        # One thread sends to all: after a whole transfer to another receiver it has sent all that it will.
        other.carry(sender, source, 2)
        assert sender.messages_sent == 3
        transfer.fail("too late")
        source.rows.fill_(2)
        gate.opened.set()
        assert gated.ended.wait(10)
        assert all(bool((row == 1).all()) for row in gated.finished)
        assert len(gated.finished) == 1
    finally:
        sender.close()
