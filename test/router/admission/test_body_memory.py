"""Memory for bodies, in all."""

import gc
import tracemalloc

import orjson
import pytest

from router.admission.body_memory import BodyMemory, cost_of
from router.errors import Overloaded, PayloadTooLarge


def reserve(memory, size):
    stopped = []
    reservation = memory.reserve(lambda: stopped.append(True))
    reservation.add(bytes(size))
    return reservation, stopped


def test_what_is_released_may_be_taken_again():
    memory = BodyMemory(3000)
    for _ in range(100):
        reservation, _ = reserve(memory, 900)
        assert memory.held == 2700
        reservation.release()
        reservation.release()
    assert memory.held == 0


def test_the_largest_body_that_still_arrives_gives_way():
    memory = BodyMemory(3000)
    whole, _ = reserve(memory, 500)
    whole.arrived()
    (large, large_stopped), (small, small_stopped) = reserve(memory, 300), reserve(memory, 100)
    reserve(memory, 200)
    assert (large.gave_way, large_stopped, large.held) == (True, [True], 0)
    assert (small.gave_way, small_stopped, whole.gave_way) == (False, [], False)
    assert memory.held == 3 * 800
    with pytest.raises(Overloaded, match="--max-body-memory") as error:
        reserve(memory, 400)
    assert (error.value.status, error.value.reason) == (503, "body_memory")


def test_a_body_beyond_all_memory_is_too_large():
    memory = BodyMemory(3000)
    with pytest.raises(PayloadTooLarge, match="3000 bytes"):
        reserve(memory, 1001)
    assert memory.held == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"[]," * 40_000 + b"0]",
        b"[" + b"{}," * 40_000 + b"0]",
        b"[" + b"1000," * 40_000 + b"0]",
        b"[" + b"1.5," * 40_000 + b"0]",
        b"[" + b'"ab",' * 40_000 + b"0]",
        b"{" + b",".join(b'"%d":0' % number for number in range(40_000)) + b"}",
        b"[" + b'{"a":1},' * 20_000 + b"0]",
        b'["' + 200_000 * b"a" + b'"]',
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_no_json_takes_more_than_it_costs(raw):
    gc.collect()
    tracemalloc.start()
    value = orjson.loads(raw)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value
    assert taken <= cost_of(raw)
