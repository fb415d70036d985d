"""The other end of the block channel in a process of its own, to be killed or stopped.

`receiver URL`: prints its endpoint and a ticket; takes the blocks slowly. `sender ENDPOINT TICKET`: sends
them in pieces of one block, prints when it has begun, and never finishes.
"""

import sys
import time

import torch

from mempool.arena import DramArena
from mempool.layout import BlockLayout
from mempool.sockets import SocketLimits
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender

LIMITS = SocketLimits(silence_s=1.0)
LAYOUT = BlockLayout(
    kind="mha", dtype="bfloat16", page_size=16, layers=2, heads=4,
    k_plane_bytes=1 << 14, v_plane_bytes=1 << 14,
)  # fmt: skip
BLOCKS = 256


class SlowArena(DramArena):
    def views(self, *args, **kwargs):
        return None

    def scatter(self, *args, **kwargs):
        time.sleep(0.02)
        super().scatter(*args, **kwargs)


def receive(url):
    receiver = BlockReceiver(url, limits=LIMITS)
    store = SlowArena(LAYOUT, BLOCKS)
    ticket = receiver.expect(store, torch.arange(BLOCKS), print, print)
    print(receiver.endpoint, ticket, flush=True)
    time.sleep(60)


def send(endpoint, ticket):
    sender = BlockSender(piece_bytes=LAYOUT.block_bytes, limits=LIMITS)
    transfer = sender.open(DramArena(LAYOUT, BLOCKS, shared=True), endpoint, int(ticket), print)
    for block in range(BLOCKS):
        transfer.send(torch.tensor([block]), block)
        time.sleep(0.02)
        if block == 5:
            print("begun", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    {"receiver": receive, "sender": send}[sys.argv[1]](*sys.argv[2:])
