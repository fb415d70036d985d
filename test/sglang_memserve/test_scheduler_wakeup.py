"""What wakes SGLang's scheduler, with SGLang's own IdleSleeper."""

from sglang.srt.managers.scheduler_components.idle_sleeper import IdleSleeper

from sglang_memserve.scheduler_wakeup import SchedulerWakeup


def test_a_scheduler_that_sleeps_is_woken_once_by_each_call():
    sleeper, wakeup = IdleSleeper([]), SchedulerWakeup()
    wakeup.poll_with(sleeper)
    wakeup.notify()
    assert not sleeper.poller.poll(0)
    wakeup.wake()
    wakeup.wake()
    assert sleeper.poller.poll(0)
    wakeup.poll_with(sleeper)
    assert not sleeper.poller.poll(0)
    wakeup.wake()
    assert sleeper.poller.poll(0)


def test_a_scheduler_that_never_sleeps_needs_no_sleeper():
    wakeup = SchedulerWakeup()
    wakeup.poll_with(None)
    wakeup.wake()
    wakeup.poll_with(None)
