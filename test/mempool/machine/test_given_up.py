"""What a sender gave up, and wrote over, must not be taken for complete."""

import threading

import torch

from mempool.arena import DramArena
from mempool.layout import BlockLayout
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)


def test_blocks_written_over_after_the_transfer_failed_are_in_no_finished_transfer(gated_transports, model):
    transports, gates = gated_transports
    source, target = DramArena(LAYOUT, 4), DramArena(LAYOUT, 4)
    receiver = BlockReceiver("gated://receiver", transports=transports)
    sender = BlockSender(transports=transports)
    finished, ended = [], threading.Event()

    def begin(block):
        ticket = receiver.expect(
            target,
            torch.tensor([block]),
            lambda private: finished.append((block, target.rows[block].clone())) or ended.set(),
            lambda error: ended.set(),
        )
        transfer = sender.open(source, receiver.endpoint, ticket, lambda error: None)
        transfer.send(torch.tensor([block]), 0)
        transfer.finish(1)
        return transfer

    try:
        source.rows.fill_(1)
        begin(0)
        assert ended.wait(10)
        ended.clear()
        gates["gated://receiver"].opened.clear()
        transfer = begin(1)
        model.until(lambda: sender.messages_sent == 2, "its blocks are under way")
        transfer.fail("too late")
        source.rows.fill_(2)
        gates["gated://receiver"].opened.set()
        assert ended.wait(10)
        assert all(bool((row == 1).all()) for _, row in finished)
    finally:
        sender.close()
        receiver.close()
