"""Which prefill instance computed a room's request."""

from sglang_memserve.caching import prefill_origins as module
from sglang_memserve.caching.prefill_origins import PrefillOrigin, PrefillOrigins


def test_a_room_is_known_until_it_is_taken():
    origins, origin = PrefillOrigins(), PrefillOrigin(None, 3)
    origins.add(7, origin)
    assert origins.pop(7) is origin
    assert origins.pop(7) is None


def test_the_oldest_rooms_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(module, "_MAX_ROOMS", 2)
    origins = PrefillOrigins()
    for room in (1, 2, 3):
        origins.add(room, PrefillOrigin(None, room))
    assert len(origins) == 2
    assert [origins.pop(room) is not None for room in (1, 2, 3)] == [False, True, True]
