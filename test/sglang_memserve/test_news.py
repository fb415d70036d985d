"""What wakes SGLang's scheduler, with SGLang's own IdleSleeper."""

from sglang.srt.managers.scheduler_components.idle_sleeper import IdleSleeper

from sglang_memserve.news import News


def test_a_scheduler_that_sleeps_is_woken_once_by_each_call():
    sleeper, news = IdleSleeper([]), News()
    news.attend(sleeper)
    news.tell()
    assert not sleeper.poller.poll(0)
    news.wake()
    news.wake()
    assert sleeper.poller.poll(0)
    news.attend(sleeper)
    assert not sleeper.poller.poll(0)
    news.wake()
    assert sleeper.poller.poll(0)


def test_one_that_never_sleeps_needs_no_sleeper():
    news = News()
    news.attend(None)
    news.wake()
    news.attend(None)
