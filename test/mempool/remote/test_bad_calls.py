"""The control socket under frames and calls that make no sense."""

import random

import msgspec
import numpy as np
from waiting import until

from mempool.address import Medium
from mempool.errors import FrameError
from mempool.remote import messages
from mempool.remote.messages import AllocMem, Call, Caller, FreeMem, Offer, decode_call

FRAMES = 10_000


def is_call(frame):
    try:
        decode_call(frame)
    except FrameError:
        return False
    return True


def honest_calls(pool, layout):
    incarnation = pool.info.incarnation
    blocks = messages.pack(np.arange(4))
    requests = [
        AllocMem(Medium.DRAM, 3),
        FreeMem(Medium.HBM, incarnation, blocks),
        Offer(layout=layout, medium=Medium.DRAM, count=2, tokens=messages.pack(np.arange(4))),
        Offer(layout=layout, medium=Medium.HBM, count=4, incarnation=incarnation, blocks=blocks),
    ]
    return [
        messages.encode(Call(n, Caller("stranger", 1), 5.0, request)) for n, request in enumerate(requests)
    ]


def mutated(frame, chance):
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return frame[: chance.randrange(len(frame))]
    if kind == 2:
        return frame + chance.randbytes(chance.randrange(1, 9))
    changed = bytearray(frame)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(changed))
        if kind == 3:
            changed[at] = chance.randrange(256)
        elif kind == 4:
            changed[at] ^= 1 << chance.randrange(8)
        else:
            del changed[at : at + chance.randrange(1, 20)]
            changed = changed or bytearray(b"x")
    return bytes(changed)


def test_ten_thousand_bad_frames_touch_no_block_and_are_counted(make_pool, raw, layout):
    """Those that happen to be calls are left out: what a stranger may ask for is another matter."""
    pool, friend = make_pool("pool"), make_pool("friend")
    friend.introduce(pool.info)
    mine = pool.alloc_mem(5)
    for medium in Medium:
        pool.local.tier(medium).store.rows.fill_(77)
    chance = random.Random(4711)
    calls = honest_calls(pool, layout)
    frames = [mutated(chance.choice(calls), chance) for _ in range(2 * FRAMES)]
    frames = [frame for frame in frames if not is_call(frame)][:FRAMES]
    assert len(frames) == FRAMES
    counts = [pool.counts(medium) for medium in Medium]
    stranger = raw(pool.info.control)
    for n, frame in enumerate(frames):
        stranger.send(frame)
        if n % 1000 == 0:
            friend.free_mem(friend.alloc_mem(2, Medium.DRAM, "pool"))
    stranger.send_multipart([calls[0], calls[0]])
    stranger.send_multipart([b""] * 50)
    until(lambda: pool.counters()["bad_frames"] == FRAMES + 2)
    assert [pool.counts(medium) for medium in Medium] == counts
    assert all(bool((pool.local.tier(medium).store.rows == 77).all()) for medium in Medium)
    pool.free_mem(mine)


def test_a_strangers_wrong_calls_are_answered_and_change_nothing(make_pool, raw, layout):
    pool = make_pool("pool")
    held = pool.alloc_mem(4)
    chance, stranger = random.Random(815), raw(pool.info.control)
    numbers = [0, 1, 4, 17, 2**31, 2**62]
    blocks = [messages.pack(np.array(some)) for some in ([], [0, 0], [-1], [3], [99], range(16))] + [b"odd"]
    counts = [pool.counts(medium) for medium in Medium]
    sent = 0
    for n in range(2000):
        medium, some = chance.choice(list(Medium)), chance.choice(blocks)
        count = chance.choice(numbers[3:])
        request = chance.choice(
            [
                AllocMem(medium, count),
                FreeMem(medium, chance.choice([pool.info.incarnation, *numbers]), some or b"no"),
                Offer(layout=layout, medium=medium, count=count, tokens=chance.choice([some, None])),
                Offer(layout=layout, medium=medium, count=count, blocks=some,
                      incarnation=chance.choice([pool.info.incarnation, None])),
                Offer(layout=msgspec.structs.replace(layout, layers=3), medium=medium, count=1),
            ]
        )  # fmt: skip
        frame = messages.encode(Call(n, Caller("stranger", 1), 5.0, request))
        sent += is_call(frame)
        stranger.send(frame)
    for _ in range(sent):
        assert stranger.poll(20_000), "a call was not answered"
        assert isinstance(messages.decode_reply(stranger.recv()).reply, messages.Failed)
    assert [pool.counts(medium) for medium in Medium] == counts
    assert (pool.counters()["held_blocks"], pool.counters()["leases"], pool.counters()["incoming"]) == (
        0,
        0,
        0,
    )
    pool.free_mem(held)
