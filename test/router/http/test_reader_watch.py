"""When a client counts as one that does not read."""

from router.http.reader_watch import ReaderWatch


def looks(watch, *unsent, writes=False):
    """One look each second."""
    return [watch.is_stuck(size, now, writes=writes) for now, size in enumerate(unsent)]


def test_one_that_takes_nothing_is_stuck_after_its_time():
    assert looks(ReaderWatch(3), 900, 900, 900, 900, 900, 900) == [False] * 4 + [True] * 2


def test_one_that_takes_a_little_is_not():
    assert not any(looks(ReaderWatch(2), 900, 899, 898, 897, 896, 895))


def test_one_that_has_taken_all_is_not():
    assert not any(looks(ReaderWatch(2), 0, 0, 0, 0, 0))


def test_what_may_be_newly_written_tells_nothing():
    assert not any(looks(ReaderWatch(2), 900, 900, 900, 900, writes=True))


def test_one_that_has_read_since_begins_anew():
    watch = ReaderWatch(2)
    assert looks(watch, 900, 900, 900) == [False] * 3
    watch.has_read()
    assert [watch.is_stuck(950, now, writes=False) for now in (3, 4, 5, 6)] == [False, False, False, True]
