"""How transfers to one receiver share its window, and how they are cut into messages."""

import msgspec
import pytest
import torch

from mempool import wire
from mempool.errors import MemPoolError
from mempool.flags import TransferMode
from mempool.transfer.cells import Cells
from mempool.transfer.cut import Piece, cut
from mempool.transfer.staging import StagingRing


@pytest.fixture
def one_block_a_message(make_paged, make_channel):
    source = make_paged(64, seed=1)
    return make_channel(source, make_paged(64), to_sender={"piece_bytes": source.layout.block_bytes})


def test_a_small_transfer_goes_between_the_messages_of_a_large_one(one_block_a_message, mute):
    """It is queued last, and is whole on its way before the third message of the large one."""
    source = one_block_a_message.source
    slow = mute(window_bytes=source.layout.block_bytes)
    opened = [one_block_a_message.sender.open(source, slow.endpoint, n, lambda error: None) for n in (1, 2)]
    large, small = opened
    large.send(torch.arange(40), 0)
    large.finish(40)
    small.send(torch.tensor([50]), 0)
    small.finish(1)
    slow.greet()
    order = []
    while (2, wire.Finish) not in order:
        message = slow.receive()[1][0]
        order.append((message.ticket, type(message)))
        slow.say(wire.Ack(message.ticket, message.seq))
    assert order.count((1, wire.Blocks)) <= 3
    assert [kind for ticket, kind in order if ticket == 2] == [wire.Begin, wire.Blocks, wire.Finish]


def test_a_receiver_that_takes_nothing_delays_nobody_else(one_block_a_message, mute):
    source = one_block_a_message.source
    slow = mute(window_bytes=source.layout.block_bytes)
    stuck = one_block_a_message.sender.open(source, slow.endpoint, 1, lambda error: None)
    stuck.send(torch.arange(40), 0)
    slow.greet()
    for page in range(10):
        one_block_a_message.carry_one(page)


def test_a_thousand_small_transfers_fit_the_queues(one_block_a_message, tools):
    begun = [one_block_a_message.begin([]) for _ in range(1500)]
    for transfer, _, _ in begun:
        transfer.finish(0)
    for _, there, here in begun:
        assert here.wait().error is None
        assert there.wait().error is None


def test_a_receiver_serves_two_senders_in_turn(make_paged, make_channel):
    source = make_paged(64, seed=1)
    settings = {"piece_bytes": source.layout.block_bytes}
    busy, other = (make_channel(source, make_paged(64), to_sender=settings) for _ in range(2))
    transfer, _, here = busy.begin(list(range(64)), receiver=other.receiver)
    transfer.send(torch.arange(64), 0)
    other.carry_one(1)
    transfer.finish(64)
    assert here.wait().error is None


PAGES = torch.arange(5)
EVERY = range(8)


def cells_of(pieces):
    return [
        (block, plane)
        for p in pieces
        for block in range(p.first, p.first + len(p.pages))
        for plane in p.planes
    ]


@pytest.mark.parametrize("mode", list(TransferMode))
@pytest.mark.parametrize("planes", [EVERY, range(2, 6), range(7, 8)])
@pytest.mark.parametrize("piece_planes", [1, 3, 8, 20, 1000])
def test_pieces_cover_each_cell_once_within_their_size(tools, mode, planes, piece_planes):
    layout = tools.layout()
    size = piece_planes * layout.k_plane_bytes
    pieces = list(cut(Piece(PAGES, 7, planes), layout, mode, size))
    assert sorted(cells_of(pieces)) == [(7 + n, plane) for n in range(5) for plane in planes]
    assert all(torch.equal(p.pages, PAGES[p.first - 7 : p.first - 7 + len(p.pages)]) for p in pieces)
    assert all(len(p.pages) * layout.row_bytes(p.planes) <= size for p in pieces)


def test_the_modes_cut_as_the_paper_says(tools):
    layout, everything = tools.layout(), Piece(PAGES, 0, EVERY)
    whole = list(cut(everything, layout, TransferMode.AGGREGATED, 1 << 30))
    assert [(len(p.pages), p.planes) for p in whole] == [(5, EVERY)]
    by_layer = list(cut(everything, layout, TransferMode.BY_LAYER, 1 << 30))
    assert [(len(p.pages), p.planes.start, len(p.planes)) for p in by_layer] == [
        (5, plane, 1) for plane in (0, 4, 1, 5, 2, 6, 3, 7)
    ]
    by_request = list(cut(everything, layout, TransferMode.BY_REQUEST, 1 << 30))
    assert [(p.first, p.planes.start, len(p.pages), len(p.planes)) for p in by_request] == [
        (block, plane, 1, 1) for block in range(5) for plane in EVERY
    ]


def part(first, count, plane=0, planes=2):
    return wire.Blocks(1, 0, first, count, plane, planes)


def landed(*parts):
    cells = Cells(4, 2)
    for part in parts:
        cells.require_inside(part)
        cells.land(part)
    return cells


def test_cells_are_complete_when_each_has_landed_in_whatever_order():
    assert landed(part(0, 4)).complete
    assert landed(part(0, 1), part(1, 3)).complete
    assert landed(part(2, 2), part(0, 2)).complete
    assert landed(part(0, 4, 0, 1), part(0, 4, 1, 1)).complete
    assert landed(*(part(block, 1, plane, 1) for block in range(4) for plane in range(2))).complete
    assert not landed(part(0, 4, 0, 1), part(0, 3, 1, 1)).complete
    assert not landed(part(1, 3)).complete
    assert not landed().complete


@pytest.mark.parametrize(
    "parts",
    [
        [part(0, 2), part(1, 1)],
        [part(0, 2), part(0, 2)],
        [part(0, 4, 1, 1), part(2, 1)],
        [part(0, 1, 0, 1), part(0, 4)],
        [part(0, 5)],
        [part(4, 1)],
        [part(0, 1, 1, 2)],
        [part(2**63, 2**63)],
        [part(0, 1, 2**64 - 1, 1)],
    ],
)
def test_a_cell_that_lands_twice_or_is_out_of_range_is_refused(parts):
    with pytest.raises(MemPoolError, match=r"before|of 4 blocks"):
        landed(*parts)


def test_what_is_sent_again_counts_once():
    again = msgspec.structs.replace(part(0, 3), again=True)
    assert not landed(part(0, 2, 0, 1), again).complete
    assert landed(part(0, 2, 0, 1), again, part(3, 1)).complete
    with pytest.raises(MemPoolError, match="before"):
        landed(again, part(2, 1))


def test_staging_never_gives_out_what_is_still_taken():
    memory = torch.zeros(1024, dtype=torch.uint8)
    ring, taken, waits = StagingRing(memory), [], 0
    generator = torch.Generator().manual_seed(3)
    for number in range(1, 500):
        size = int(torch.randint(1, 400, (), generator=generator))
        while (slot := ring.take(size)) is None:
            first, value = taken.pop(0)
            assert bool((first == value).all()), "overwritten while it was taken"
            ring.give_back_first()
            waits += 1
        assert len(slot) == size
        slot.fill_(number % 251)
        taken.append((slot, number % 251))
    assert waits
    while taken:
        taken.pop()
        ring.give_back_last()
    assert len(ring.take(1024)) == 1024
    assert ring.take(1) is None


@pytest.mark.parametrize("mode", list(TransferMode))
@pytest.mark.parametrize("piece_planes", [1, 3, 20])
def test_blocks_arrive_whole_in_every_mode(make_paged, make_channel, tools, mode, piece_planes):
    source, target = make_paged(16, seed=2), make_paged(16)
    size = piece_planes * source.layout.k_plane_bytes
    channel = make_channel(source, target, to_sender={"piece_bytes": size})
    src, dst = [9, 3, 4, 5, 1], [2, 8, 7, 11, 12]
    transfer, _, here = channel.begin(dst, mode=mode)
    transfer.send(torch.tensor(src[:2]), 0)
    transfer.send(torch.tensor(src[2:]), 2)
    transfer.finish(5)
    assert here.wait().error is None
    assert torch.equal(tools.blocks_of(target, dst), tools.blocks_of(source, src))
    if mode == TransferMode.BY_REQUEST:
        assert channel.sender.messages_sent == 5 * 8


@pytest.mark.parametrize("kind", ["mha", "mla"])
def test_a_layer_is_sent_once_it_is_written_and_before_the_next_is(make_paged, make_channel, tools, kind):
    source, target = make_paged(8, seed=2, kind=kind), make_paged(8, kind=kind)
    channel = make_channel(source, target)
    transfer, there, here = channel.begin([4, 5], mode=TransferMode.BY_LAYER)
    written, pages = set(), torch.tensor([1, 2])
    for layer in range(source.layout.layers):
        for planes in source.layout.planes_of(layer):
            transfer.send(pages, 0, lambda layer=layer: layer in written, planes=planes)
    transfer.finish(2)
    layer_bytes = sum(2 * source.layout.row_bytes(planes) for planes in source.layout.planes_of(0))
    for layer in range(source.layout.layers):
        tools.until(lambda layer=layer: channel.receiver.bytes_received == layer * layer_bytes)
        assert not there.calls
        for planes in source.layout.planes_of(layer):
            source.engine_planes[planes.start][16:48] = 40 + layer
        written.add(layer)
    assert here.wait().error is None
    assert torch.equal(tools.blocks_of(target, [4, 5]), tools.blocks_of(source, [1, 2]))


def test_a_plane_that_never_came_or_came_twice_fails_the_transfer(one_block_a_message):
    for planes in ([range(0, 7)], [range(0, 8), range(3, 4)]):
        transfer, there, here = one_block_a_message.begin([4])
        for some in planes:
            transfer.send(torch.tensor([1]), 0, planes=some)
        transfer.finish(1)
        assert here.wait().error is not None
        assert there.wait().error is not None
    with pytest.raises(MemPoolError, match="of a block of 8 planes"):
        transfer.send(torch.tensor([1]), 0, planes=range(7, 9))


def test_blocks_that_are_sent_again_are_the_ones_that_stay(make_paged, make_channel, tools):
    source, target = make_paged(8, seed=2), make_paged(8)
    channel = make_channel(source, target)
    transfer, _, here = channel.begin([4, 5], mode=TransferMode.BY_LAYER)
    transfer.send(torch.tensor([1, 2]), 0, planes=range(0, 3))
    transfer.send(torch.tensor([1]), 0, planes=range(3, 8))
    transfer.send(torch.tensor([3]), 1, again=True)
    transfer.finish(2)
    assert here.wait().error is None
    assert torch.equal(tools.blocks_of(target, [4, 5]), tools.blocks_of(source, [1, 3]))


def test_a_plane_larger_than_a_message_is_refused_at_once(one_block_a_message, tools):
    layout = msgspec.structs.replace(tools.layout(), k_plane_bytes=wire.MAX_PIECE_BYTES + 1)
    store = type("Store", (), {"layout": layout})()
    with pytest.raises(MemPoolError, match="a message carries at most"):
        one_block_a_message.sender.open(store, "tcp://127.0.0.1:1", 1, print)
    with pytest.raises(MemPoolError, match="a message carries at most"):
        one_block_a_message.receiver.expect(store, torch.tensor([1]), print, print)
