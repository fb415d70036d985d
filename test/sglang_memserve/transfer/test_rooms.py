"""What becomes of a room, from its first destination or its request to its end."""

import time

import pytest

from mempool.layout import BlockLayout
from sglang_memserve.transfer import control
from sglang_memserve.transfer.rooms import RoomDestination, Rooms, RoomState

ROOM = 77
LAYOUT = BlockLayout(
    kind="mha", dtype="float32", page_size=4, layers=1, heads=1, k_plane_bytes=16, v_plane_bytes=16
)


def destination(dummy=False):
    return RoomDestination(
        control.Destination(
            room=ROOM,
            endpoint="stream://127.0.0.1:1",
            layout=LAYOUT,
            ticket=1,
            decode_prefix_len=0,
            required_destinations=1,
            is_dummy=dummy,
        )
    )


@pytest.fixture
def rooms():
    return Rooms(refuse_s=100, max_unclaimed=2)


def test_a_destination_waits_for_its_request(rooms):
    room = rooms.admit(ROOM, "a", destination())
    assert (room.state, rooms.unclaimed, len(rooms)) == (RoomState.UNCLAIMED, 1, 1)
    assert rooms.open(ROOM) is room
    assert (room.state, rooms.unclaimed, len(rooms)) == (RoomState.OPEN, 0, 1)
    rooms.close(room, "it failed")
    assert (room.state, room.failure, len(rooms)) == (RoomState.CLOSED, "it failed", 0)


def test_a_request_waits_for_its_destinations(rooms):
    room = rooms.open(ROOM)
    assert rooms.admit(ROOM, "a", destination()) is room
    assert rooms.admit(ROOM, "b", destination()) is room
    assert (list(room.destinations), rooms.unclaimed) == (["a", "b"], 0)


def test_a_second_request_gets_no_room_until_the_first_has_ended(rooms):
    first = rooms.open(ROOM)
    assert rooms.open(ROOM) is None
    rooms.close(first, None)
    second = rooms.open(ROOM)
    assert second is not first
    assert (first.state, second.state) == (RoomState.CLOSED, RoomState.OPEN)


def test_a_room_without_a_request_counts_once_and_can_be_dropped(rooms):
    for endpoint in ("a", "b"):
        rooms.admit(ROOM, endpoint, destination())
    assert not rooms.full
    rooms.admit(ROOM + 1, "a", destination())
    assert rooms.full
    rooms.drop(ROOM)
    rooms.drop(ROOM)
    assert (rooms.unclaimed, len(rooms), rooms.full) == (1, 1, False)


def test_only_rooms_without_a_request_are_overdue(rooms):
    rooms.admit(ROOM, "a", destination())
    rooms.admit(ROOM + 1, "a", destination())
    rooms.open(ROOM + 1)
    assert rooms.overdue(time.monotonic() + 1) == [ROOM]
    assert rooms.overdue(time.monotonic() - 1) == []


def test_a_refusal_outlives_its_room(rooms):
    room = rooms.open(ROOM)
    rooms.refuse(ROOM, "aborted")
    rooms.close(room, "aborted")
    assert rooms.refusal(ROOM) == "aborted"
    assert rooms.refusal(ROOM + 1) is None


def test_a_dummy_rank_has_nothing_left_to_get():
    assert destination(dummy=True).done
    assert not destination().done
