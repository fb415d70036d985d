"""A bound on what a sender's connections carry."""

import socket
import sys
import time

import pytest
import torch

from mempool.errors import MemPoolError
from mempool.transports.registry import Transports
from mempool.transports.stream.pacing import pace

MIB = 1 << 20
BOUND, BLOCKS = 16 * MIB, 80


@pytest.fixture
def seconds(make_channel, make_paged, tools):
    """Seconds that 3.75 MiB of blocks take to a receiver, under a bound."""

    def carried(max_bandwidth):
        source, target = make_paged(BLOCKS, seed=1), make_paged(BLOCKS)
        channel = make_channel(source, target, to_sender={"transports": Transports(max_bandwidth)})
        channel.carry_one(2)
        pages = torch.arange(BLOCKS)
        transfer, _, here = channel.begin(pages.tolist())
        began = time.monotonic()
        transfer.send(pages, 0)
        transfer.finish(BLOCKS)
        assert here.wait().error is None
        took = time.monotonic() - began
        assert torch.equal(tools.blocks_of(target, pages.tolist()), tools.blocks_of(source, pages.tolist()))
        return took

    return carried


def test_a_bandwidth_bound_sets_how_long_a_transfer_takes(seconds, tools):
    nominal = BLOCKS * tools.layout().block_bytes / BOUND
    assert 0.2 < nominal < 0.3
    assert seconds(BOUND) > 0.7 * nominal
    assert any(seconds(0) < 0.5 * nominal for _ in range(5))


@pytest.mark.parametrize("bound", [BOUND, 6_000_000_000])
def test_bounds_of_more_than_32_bits_are_kept_too(bound):
    with socket.socket() as stream:
        pace(stream, bound)
        assert int.from_bytes(stream.getsockopt(socket.SOL_SOCKET, 47, 8), sys.byteorder) == bound


def test_where_the_platform_knows_no_bound_that_is_said_at_once(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    Transports()
    with pytest.raises(MemPoolError, match="1000000 bytes a second: darwin has no SO_MAX_PACING_RATE"):
        Transports(1_000_000)


def test_a_kernel_that_makes_nothing_of_it_is_found_out(monkeypatch):
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None, raising=False)
    with pytest.raises(MemPoolError, match="this kernel made"):
        Transports(1_000_000)
