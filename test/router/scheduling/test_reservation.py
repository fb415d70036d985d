from router.instances.instance import Instance, Role, prefill_queues
from router.scheduling.reservation import PrefillReservation


def test_it_is_charged_until_it_is_done_or_dropped_and_only_once():
    one, source, told = Instance("http://a:1", Role.PREFILL), Instance("http://b:1", Role.DECODE), []
    done = PrefillReservation(one, 0.3, source, 0.1, lambda *said: told.append(said))
    dropped = PrefillReservation(one, 0.7, told=lambda *said: told.append(said))
    assert (round(one.charged_seconds, 5), round(source.sending_seconds, 5)) == (1.0, 0.1)
    for _ in range(2):
        done.done()
        dropped.drop()
        done.drop()
        dropped.done()
    ((seconds, _),) = told
    assert seconds >= 0


def test_it_was_alone_if_nothing_was_before_it_and_nothing_came_that_is_still_there():
    one, told = Instance("http://a:1", Role.PREFILL), []
    first, second = (PrefillReservation(one, 1.0, told=lambda _, alone: told.append(alone)) for _ in range(2))
    first.done()
    second.done()
    PrefillReservation(one, 1.0, told=lambda _, alone: told.append(alone)).done()
    assert told == [False, False, True]


def test_nothing_is_left_of_a_thousand_thirds():
    one = Instance("http://a:1", Role.COLOCATED)
    works = [PrefillReservation(one, number / 3) for number in range(1000)]
    for work in works[::2] + works[1::2]:
        work.drop()
    assert one.charged_seconds == 0


def test_the_queue_gets_shorter_while_the_first_of_it_runs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("router.instances.instance.time.monotonic", lambda: now[0])
    one = Instance("http://a:1", Role.PREFILL)
    first, second = PrefillReservation(one, 10.0), PrefillReservation(one, 2.0)
    assert prefill_queues([one], now[0] + 9.5) == [2.5]
    # It takes longer than was predicted: the second has still all before it.
    now[0] += 15
    assert prefill_queues([one], now[0]) == [2.0]
    first.done()
    assert prefill_queues([one], now[0] + 0.5) == [1.5]
    second.drop()
    assert prefill_queues([one], now[0]) == [one.charged_seconds] == [0]


def test_a_source_is_free_again_once_it_has_sent():
    one, source = Instance("http://a:1", Role.PREFILL), Instance("http://b:1", Role.DECODE)
    work = PrefillReservation(one, 1.0, source, 0.5)
    work.fetched()
    assert (one.charged_seconds, source.sending_seconds) == (1.0, 0)
    work.drop()
    assert (one.charged_seconds, source.sending_seconds) == (0, 0)
