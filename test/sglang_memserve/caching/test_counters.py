"""Numbers that several threads add to, by name and by source."""

import threading

import pytest

from sglang_memserve.caching.counters import Counters


def test_threads_lose_nothing_of_each_others():
    counts = Counters()

    def count():
        for _ in range(2000):
            counts.add("asked")
            counts.add("fetched", 2, source="a")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.read() == {"asked": 8000, "fetched": {"a": 16000}}


def test_whole_numbers_stay_whole_and_seconds_need_not_be():
    counts = Counters()
    counts.add("blocks", 3)
    counts.add("seconds", 0.5)
    counts.add("seconds")
    assert {name: type(value) for name, value in counts.read().items()} == {"blocks": int, "seconds": float}
    assert counts.read()["seconds"] == 1.5


def test_ever_new_sources_are_one_sum():
    counts = Counters()
    for number in range(100):
        counts.add("fetched", source=f"127.0.0.1:{number}")
    counts.add("fetched", source="127.0.0.1:0")
    by_source = counts.read()["fetched"]
    assert len(by_source) == 65
    assert by_source["127.0.0.1:0"] == 2
    assert by_source["others"] == 36


def test_what_was_read_is_not_added_to():
    counts = Counters()
    counts.add("fetched", source="a")
    before = counts.read()
    counts.add("fetched", source="a")
    assert before == {"fetched": {"a": 1}}


def test_a_copy_that_failed_moved_nothing():
    counts = Counters()
    with counts.moving("swap_in", 10):
        pass
    with pytest.raises(OSError, match="gone"), counts.moving("swap_in", 10):
        raise OSError("gone")
    assert counts.read()["swap_in_bytes"] == 10
    assert counts.read()["swap_in_seconds"] >= 0
