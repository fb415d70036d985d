"""How a prefix is cut into parts, a part for each instance that has it."""

import pytest

from mempool.sources import FetchPart, FetchSource, parts_of, require_sources


def cut(sources, present, total):
    return [tuple(part) for part in parts_of([FetchSource(*source) for source in sources], present, total)]


def test_sources_of_the_same_send_shares_of_the_same_size():
    assert cut([("a",), ("b",), ("c",)], 0, 12) == [("a", 0, 4), ("b", 4, 8), ("c", 8, 12)]
    assert cut([("a", 10), ("b", 12), ("c", 10)], 0, 10) == [("a", 0, 3), ("b", 3, 7), ("c", 7, 10)]


def test_what_is_here_is_in_no_part():
    assert cut([("a",), ("b",)], 6, 12) == [("a", 6, 9), ("b", 9, 12)]
    assert cut([("a",), ("b", 20)], 12, 12) == []
    assert cut([("a", 4), ("b", 3)], 6, 12) == []


def test_a_share_is_as_large_as_its_link_is_fast():
    assert cut([("a", None, 3e9), ("b", None, 1e9)], 0, 12) == [("a", 0, 9), ("b", 9, 12)]
    assert cut([("a", None, 3e9), ("b", None, 1e9), ("c",)], 0, 12) == [
        ("a", 0, 6),
        ("b", 6, 8),
        ("c", 8, 12),
    ]


def test_no_source_is_asked_for_more_than_it_has():
    assert cut([("long", 12), ("short", 2)], 0, 12) == [("short", 0, 2), ("long", 2, 12)]
    assert cut([("long", 12), ("short", 8)], 0, 12) == [("short", 0, 6), ("long", 6, 12)]
    assert cut([("long", 12), ("none", 0)], 0, 20) == [("long", 0, 12)]
    assert cut([("a", 4), ("b", 4), ("c", 12)], 0, 12) == [("a", 0, 4), ("c", 4, 12)]


@pytest.mark.parametrize("total", [1, 2, 7, 8, 63])
@pytest.mark.parametrize("present", [0, 1, 5])
def test_parts_lie_end_to_end_and_cover_what_a_source_has(present, total):
    sources = [FetchSource(f"s{n}", blocks, 1.0 + n % 3) for n, blocks in enumerate([3, 3, 9, 40, 8, 50])]
    parts = parts_of(sources, present, total)
    reach = {source.instance: source.blocks for source in sources}
    at = present
    for part in parts:
        assert at == part.first < part.stop <= reach[part.instance]
        at = part.stop
    assert at == max(present, min(total, 50))


def test_fewer_blocks_than_sources_leave_some_out():
    parts = parts_of([FetchSource(name) for name in "abcd"], 0, 2)
    assert sum(part.stop - part.first for part in parts) == 2
    assert all(isinstance(part, FetchPart) for part in parts)


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        ([], "0 sources: give 1 to 8"),
        ([FetchSource(f"s{n}") for n in range(9)], "9 sources: give 1 to 8"),
        ([FetchSource("a", 3), FetchSource("a", 4)], "a, a: name each of them once"),
        ([FetchSource("a", -1)], "a cannot have -1 blocks"),
        ([FetchSource("a", 1, 0.0)], "not 0.0 B/s"),
        ([FetchSource("a", 1, float("nan"))], "not nan B/s"),
        ([FetchSource("a", 1, float("inf"))], "not inf B/s"),
    ],
)
def test_sources_that_make_no_sense_are_named(sources, why):
    with pytest.raises(ValueError, match=why):
        require_sources(sources)
