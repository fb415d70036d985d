"""Rooms for the samples of a prompt, without SGLang: `Manager` sends in SGLang's order."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from sglang_memserve.hooks.samples import SampleRooms, room_of

ROOM = 4711


@dataclass
class Sent:
    bootstrap_room: int | None


class Manager:
    def __init__(self, rooms=None):
        self.sent, self.rooms = [], rooms or SampleRooms()

    async def _send(self, tokenized):
        await asyncio.sleep(0)
        self.sent.append(tokenized.bootstrap_room)

    async def _batch(self, batch):
        uses = 1 if batch.parallel_sample_num == 1 else 1 + batch.parallel_sample_num
        for room in batch.bootstrap_room[: batch.batch_size]:
            for _ in range(uses):
                await self.rooms.send_to_room(Manager._send, self, Sent(room))
        yield "first"
        yield "second"

    def run(self, rooms, n, size=1):
        batch = SimpleNamespace(bootstrap_room=rooms * n, parallel_sample_num=n, batch_size=size)
        return self.rooms.count_uses(Manager._batch, self, batch)


def test_uses_of_a_room_never_meet_and_are_valid_rooms():
    near_the_end = 2**63 - 2
    rooms = {room_of(first, use) for first in (1, 2, near_the_end) for use in range(10_000)}
    assert len(rooms) == 30_000
    assert all(0 < room < 2**63 for room in rooms)
    assert room_of(ROOM, 0) == ROOM


async def test_prefill_and_decode_give_every_sample_the_same_room_of_its_own():
    prefill, decode = Manager(), Manager()
    for manager in (prefill, decode):
        assert [answer async for answer in manager.run([ROOM, 99], n=3, size=2)] == ["first", "second"]
    assert prefill.sent == decode.sent
    assert len(set(prefill.sent)) == 8
    assert prefill.sent[0] == ROOM
    assert prefill.sent[4] == 99


async def test_requests_at_the_same_time_do_not_count_for_each_other():
    alone, both = Manager(), Manager()
    [_ async for _ in alone.run([ROOM], n=2)]
    first, second = both.run([ROOM], n=2), both.run([99], n=2)
    await asyncio.gather(anext(first), anext(second))
    assert [room for room in both.sent if room in alone.sent] == alone.sent
    assert len(set(both.sent)) == 6


async def test_managers_of_one_process_do_not_count_for_each_other():
    rooms = SampleRooms()
    prefill, decode = Manager(rooms), Manager(rooms)
    first, second = prefill.run([ROOM], n=2), decode.run([ROOM], n=2)
    await asyncio.gather(anext(first), anext(second))
    assert prefill.sent == decode.sent
    assert len(set(prefill.sent)) == 3


@pytest.mark.parametrize("leave_early", [False, True])
async def test_a_request_leaves_no_count_behind(leave_early):
    manager = Manager()
    answers = manager.run([ROOM], n=2)
    await anext(answers)
    if leave_early:
        await answers.aclose()
    else:
        assert [answer async for answer in answers] == ["second"]
    await anext(manager.run([ROOM], n=1))
    assert manager.sent[3:] == [ROOM]


@pytest.mark.parametrize("rooms", [[None], [0]])
async def test_a_request_without_a_room_is_sent_as_it_is(rooms):
    manager = Manager()
    assert [answer async for answer in manager.run(rooms, n=2)] == ["first", "second"]
    assert manager.sent == rooms * 3


async def test_one_sample_a_prompt_keeps_the_prompts_room():
    manager = Manager()
    assert [answer async for answer in manager.run([ROOM, 99], n=1, size=2)] == ["first", "second"]
    assert manager.sent == [ROOM, 99]
