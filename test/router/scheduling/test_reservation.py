from router.instances.instance import Instance, Role, prefill_queues
from router.scheduling.reservation import PrefillReservation, Reservation


def test_prefill_is_charged_from_reserve_to_its_end_and_only_once():
    instance, source, ended = Instance("http://a:1", Role.PREFILL), Instance("http://b:1", Role.DECODE), []
    done = PrefillReservation(
        instance, 0.3, source=source, sending_s=0.1, on_done=lambda *result: ended.append(result)
    )
    released = PrefillReservation(instance, 0.7, on_done=lambda *result: ended.append(result))
    assert (instance.charged_seconds, source.sending_seconds) == (0, 0)
    done.reserve()
    released.reserve()
    assert (round(instance.charged_seconds, 5), round(source.sending_seconds, 5)) == (1.0, 0.1)
    for _ in range(2):
        done.done()
        released.release()
        done.release()
        released.done()
    assert (instance.charged_seconds, source.sending_seconds) == (0, 0)
    ((seconds, _),) = ended
    assert seconds >= 0


def test_seconds_are_those_of_the_instances_clock(clock):
    ended = []
    instance = Instance("http://a:1", Role.PREFILL, clock=clock)
    prefill = PrefillReservation(instance, 1.0, on_done=lambda *result: ended.append(result))
    prefill.reserve()
    clock.now += 1.5
    prefill.done()
    assert ended == [(1.5, True)]


def test_an_instance_is_charged_from_reserve_to_release_and_only_once():
    instance = Instance("http://a:1", Role.COLOCATED)
    reservation = Reservation(instance, 100, PrefillReservation(instance, 0.5))
    assert (instance.in_flight, instance.charged, instance.charged_seconds) == (0, 0, 0)
    reservation.reserve()
    assert (instance.in_flight, instance.charged, instance.charged_seconds) == (1, 100, 0.5)
    reservation.began()
    assert (instance.in_flight, instance.charged, instance.charged_seconds) == (1, 100, 0)
    for _ in range(2):
        reservation.release()
        assert (instance.in_flight, instance.charged) == (0, 0)


def test_what_was_never_reserved_is_not_released():
    instance = Instance("http://a:1", Role.COLOCATED)
    Reservation(instance, 100, PrefillReservation(instance, 0.5)).release()
    assert (instance.in_flight, instance.charged, instance.charged_seconds) == (0, 0, 0)


def test_prefill_was_alone_if_no_other_ran_when_it_began_and_ended():
    instance, alone = Instance("http://a:1", Role.PREFILL), []
    first, second, third = (
        PrefillReservation(instance, 1.0, on_done=lambda _, was_alone: alone.append(was_alone))
        for _ in range(3)
    )
    first.reserve()
    second.reserve()
    first.done()
    second.done()
    third.reserve()
    third.done()
    assert alone == [False, False, True]


def test_nothing_is_left_of_a_thousand_thirds():
    instance = Instance("http://a:1", Role.COLOCATED)
    prefills = [PrefillReservation(instance, number / 3) for number in range(1000)]
    for prefill in prefills:
        prefill.reserve()
    for prefill in prefills[::2] + prefills[1::2]:
        prefill.release()
    assert instance.charged_seconds == 0


def test_the_queue_gets_shorter_while_the_first_of_it_runs(clock):
    instance = Instance("http://a:1", Role.PREFILL, clock=clock)
    first, second = PrefillReservation(instance, 10.0), PrefillReservation(instance, 2.0)
    first.reserve()
    second.reserve()
    assert prefill_queues([instance], clock.now + 9.5) == [2.5]
    # It takes longer than was predicted: the second has still all before it.
    clock.now += 15
    assert prefill_queues([instance], clock.now) == [2.0]
    first.done()
    assert prefill_queues([instance], clock.now + 0.5) == [1.5]
    second.release()
    assert prefill_queues([instance], clock.now) == [instance.charged_seconds] == [0]


def test_a_source_is_free_again_once_it_has_sent():
    instance, source = Instance("http://a:1", Role.PREFILL), Instance("http://b:1", Role.DECODE)
    prefill = PrefillReservation(instance, 1.0, source=source, sending_s=0.5)
    prefill.reserve()
    prefill.fetched()
    assert (instance.charged_seconds, source.sending_seconds) == (1.0, 0)
    prefill.release()
    assert (instance.charged_seconds, source.sending_seconds) == (0, 0)
