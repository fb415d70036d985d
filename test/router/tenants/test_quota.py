"""TenantLimits: what is refused, for how long, and that each tenant gets its rate in the long run."""

from types import SimpleNamespace

import pytest
from manual_clock import Clock

from router.errors import BadRequest, TenantLimited
from router.tenants.quota import Quota, TenantLimits


@pytest.fixture
def clock(monkeypatch):
    """Time for the library's counters, at the beginning of a minute."""
    clock = Clock(6_000_000.0)
    for module in ("limits.aio.storage.memory", "limits.aio.strategies"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=clock))
    return clock


def of_limits(**limits):
    return Quota("acme", TenantLimits(**limits))


def test_one_request_too_many_is_refused_at_once():
    quota = of_limits(requests_in_flight=2)
    with quota.request(), quota.request():
        with pytest.raises(TenantLimited, match="acme has 2 requests in flight") as refused, quota.request():
            pass
        assert refused.value.status == 429
        assert refused.value.headers["Retry-After"] == "1"
    with quota.request():
        assert quota.in_flight == 1
    assert quota.refused["requests_in_flight"] == 1


def test_a_request_that_fails_is_in_flight_no_more():
    quota = of_limits(requests_in_flight=1)
    with pytest.raises(ZeroDivisionError), quota.request():
        raise ZeroDivisionError
    assert quota.in_flight == 0


async def test_without_limits_nothing_is_refused():
    quota = of_limits()
    await quota.admit(10**9)
    quota.generated(10**9)
    await quota.admit(1)


async def test_a_long_prompt_is_refused_with_both_numbers():
    quota = of_limits(prompt_tokens=100)
    await quota.admit(100)
    with pytest.raises(BadRequest, match=r"101 tokens.*acme may send 100"):
        await quota.admit(101)


async def test_the_minute_is_used_up_by_prompts_and_answers(clock):
    quota = of_limits(tokens_per_minute=600)
    await quota.admit(300)
    quota.generated(200)
    with pytest.raises(TenantLimited) as refused:
        await quota.admit(110)
    assert refused.value.headers["Retry-After"] == "1"
    await quota.admit(100)
    with pytest.raises(TenantLimited) as refused:
        await quota.admit(300)
    assert refused.value.headers["Retry-After"] == "30"
    clock.now += 60 + 31
    await quota.admit(300)
    assert quota.refused["tokens_per_minute"] == 2


async def test_an_answer_past_the_limit_is_paid_for_in_time(clock):
    quota = of_limits(tokens_per_minute=100)
    admitted = generated = 0
    for _ in range(600):
        clock.now += 1
        try:
            await quota.admit(1)
        except TenantLimited:
            continue
        admitted += 1
        quota.generated(499)
        generated += 500
    # Ten minutes at 100 a minute; the last answer may be owed still.
    assert 500 <= generated <= 10 * 100 + 2 * 500


async def test_a_prompt_of_more_than_a_minutes_tokens_waits_for_an_empty_one(clock):
    quota = of_limits(tokens_per_minute=100)
    await quota.admit(250)
    for seconds in (30, 90):
        clock.now += seconds
        with pytest.raises(TenantLimited):
            await quota.admit(250)
    clock.now += 600
    with pytest.raises(TenantLimited):
        await quota.admit(250)


async def test_tenants_do_not_use_up_each_others(clock):
    first, second = of_limits(tokens_per_minute=10), of_limits(tokens_per_minute=10)
    await first.admit(10)
    await second.admit(10)
    with pytest.raises(TenantLimited):
        await first.admit(1)


async def test_a_new_limit_counts_at_once(clock):
    quota = of_limits(tokens_per_minute=10)
    await quota.admit(10)
    quota.limits = TenantLimits(tokens_per_minute=1000)
    await quota.admit(900)
