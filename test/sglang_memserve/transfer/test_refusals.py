from sglang_memserve.transfer.refusals import Refusals


def test_a_room_is_refused_with_its_reason_and_forgotten_in_time():
    rooms = Refusals(seconds=100)
    rooms.add(1, "aborted")
    assert rooms.reason(1) == "aborted"
    assert rooms.reason(2) is None
    gone = Refusals(seconds=-1)
    gone.add(1, "aborted")
    assert gone.reason(1) is None


def test_the_oldest_refusals_are_forgotten():
    rooms = Refusals(capacity=2)
    for room in (1, 2, 1, 3):
        rooms.add(room, "aborted")
    assert rooms.reason(2) is None
    assert rooms.reason(1) == rooms.reason(3) == "aborted"
