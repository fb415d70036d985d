"""What becomes of a room, from its first destination or its request to its end."""

import time
from types import SimpleNamespace

import pytest

from mempool.layout import BlockLayout
from sglang_memserve.transfer import control
from sglang_memserve.transfer.rooms import RoomDestination, Rooms, RoomState

ROOM = 77
LAYOUT = BlockLayout(
    kind="mha", dtype="float32", page_size=4, layers=1, heads=1, k_plane_bytes=16, v_plane_bytes=16
)


def destination(dummy=False, peer="10.0.0.1"):
    return RoomDestination(
        control.Destination(
            room=ROOM,
            endpoint="stream://127.0.0.1:1",
            layout=LAYOUT,
            ticket=1,
            decode_prefix_len=0,
            required_destinations=1,
            is_dummy=dummy,
        ),
        peer,
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


def test_a_destination_without_a_request_counts_until_it_is_dropped(rooms):
    rooms.admit(ROOM, "a", destination())
    assert not rooms.full
    rooms.admit(ROOM, "b", destination(peer="10.0.0.2"))
    assert (rooms.unclaimed, len(rooms), rooms.full) == (2, 1, True)
    rooms.drop(ROOM)
    rooms.drop(ROOM)
    assert (rooms.unclaimed, len(rooms), rooms.full) == (0, 0, False)


def test_a_destination_that_is_named_again_replaces_the_earlier(rooms):
    first, second = destination(), destination(peer="10.0.0.2")
    failed = []
    first.attach(SimpleNamespace(fail=failed.append))
    rooms.admit(ROOM, "a", first)
    room = rooms.admit(ROOM, "a", second)
    assert (room.destinations, rooms.unclaimed, len(failed)) == ({"a": second}, 1, 1)
    rooms.open(ROOM)
    assert rooms.unclaimed == 0


def test_the_oldest_room_of_the_peer_with_the_most_gives_way():
    rooms = Rooms(refuse_s=100, max_unclaimed=10)
    rooms.admit(1, "honest", destination(peer="10.0.0.9"))
    for number in (5, 4, 3):
        rooms.admit(number, "many", destination())
    assert rooms.most_dispensable() == 5
    rooms.drop(5)
    rooms.open(4)
    assert rooms.most_dispensable() in (1, 3)
    for endpoint in ("a", "b"):
        rooms.admit(1, endpoint, destination(peer="10.0.0.9"))
    assert rooms.most_dispensable() == 1


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
