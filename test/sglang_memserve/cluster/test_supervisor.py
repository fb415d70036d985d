import asyncio
import os
import signal
from contextlib import suppress

import pytest

from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.supervisor import Limits, Member, Supervisor

FAST = Limits(start_s=20, stop_s=5, poll_s=0.02, restarts=2, window_s=60, backoff_s=0.01)


class Reports(list):
    def __call__(self, name, what):
        self.append((name, what))

    def of(self, name):
        return [what for who, what in self if who == name]

    async def wait_for(self, name, words, times=1):
        async with asyncio.timeout(20):
            while sum(words in what for what in self.of(name)) < times:
                await asyncio.sleep(0.02)


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
async def member(tmp_path, fake_argv, free_port):
    async with probe.client() as session:

        def make(name, *flags, **fields):
            port = free_port()
            log = tmp_path / f"{name}.log"

            async def phase():
                return (
                    "ready" if await probe.answers(session, f"http://127.0.0.1:{port}/ready") else "starting"
                )

            env = {"TEST_MARK_OF_MEMSERVE": str(tmp_path)}
            return Member(name, fake_argv(port, *flags), env, log, phase, **fields)

        yield make


@pytest.fixture
def supervise(reports):
    def make(*members, limits=FAST, serves=lambda: True):
        async def settle(member):
            return "back"

        return Supervisor(members, reports, limits=limits, serves=serves, settle=settle)

    return make


async def test_all_start_and_all_stop(member, supervise, reports, survivors):
    supervisor = supervise(member("one"), member("two"))
    await supervisor.start()
    assert len(survivors()) == 4
    for name in ("one", "two"):
        assert reports.of(name)[0] == "starting"
        assert reports.of(name)[-1].startswith("ready after")
    await supervisor.stop()
    assert survivors() == []
    assert reports.of("one")[-1] == reports.of("two")[-1] == "stopped"


async def test_the_router_goes_first(member, supervise, reports):
    supervisor = supervise(member("instance"), member("router", first_to_stop=True))
    await supervisor.start()
    await supervisor.stop()
    assert [name for name, what in reports if what == "stopped"] == ["router", "instance"]


async def test_a_failed_start_names_the_member_and_its_error(member, supervise, survivors):
    supervisor = supervise(member("good"), member("bad", "--crash"))
    with pytest.raises(ClusterError, match=r"(?s)bad.*exit code 1.*the weights are gone") as failure:
        await supervisor.start()
    assert "xxxx" not in str(failure.value)
    await supervisor.stop()
    assert survivors() == []


@pytest.mark.parametrize("others_ready", [True, False])
async def test_a_death_before_all_is_proven_is_reported(member, supervise, reports, survivors, others_ready):
    managed, two = member("one"), member("two")

    async def never(*_):
        await asyncio.Event().wait()

    if not others_ready:
        two.phase = never
    starting = asyncio.create_task(supervise(managed, two).start(never))
    await reports.wait_for("one", "ready")
    os.kill(managed.process.pid, signal.SIGKILL)
    with pytest.raises(ClusterError, match=r"(?s)^one died before all was ready: .*SIGKILL.*one\.log"):
        async with asyncio.timeout(20):
            await starting
    await two.process.stop(10)
    assert survivors() == []


async def test_a_death_says_more_than_the_request_that_failed_of_it(member, supervise):
    managed = member("one")

    async def ready():
        return "ready"

    async def refused():
        os.kill(managed.process.pid, signal.SIGKILL)
        raise ClusterError("the request failed")

    # The long poll is what a death has to be seen in, not a wait: it is up at the first look.
    managed.phase = ready
    supervisor = supervise(managed, limits=Limits(poll_s=20))
    with pytest.raises(ClusterError, match=r"^one died"):
        await supervisor.start(refused)


async def test_all_stop_though_nothing_can_be_reported(member, supervise, reports, survivors, monkeypatch):
    supervisor = supervise(member("one"), member("router", first_to_stop=True))
    await supervisor.start()

    def fails(*_):
        raise OSError("nobody reads")

    supervisor._report = fails
    with pytest.raises(OSError, match="nobody reads"):
        await supervisor.stop()
    assert survivors() == []


async def test_a_start_that_takes_too_long_is_given_up(member, supervise, survivors):
    slow = member("slow")

    async def never():
        return "loading"

    slow.phase = never
    supervisor = supervise(slow, limits=Limits(start_s=0.5, poll_s=0.02))
    with pytest.raises(ClusterError, match=r"slow was not ready after .* s \(--start-timeout\)"):
        await supervisor.start()
    assert survivors() == []


async def test_what_dies_is_named_with_the_reason_and_brought_back(member, supervise, reports, survivors):
    managed = member("one")
    supervisor = supervise(managed, member("two"))
    await supervisor.start()
    watching = asyncio.create_task(supervisor.watch())
    first = managed.process.pid
    os.kill(first, signal.SIGKILL)
    await reports.wait_for("one", "back")
    assert any("SIGKILL" in what for what in reports.of("one"))
    assert managed.process.pid != first
    # the orphan of the first run is gone: two processes for each member
    assert len(survivors()) == 4
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await supervisor.stop()
    assert survivors() == []


async def test_what_dies_again_and_again_is_given_up_and_ends_the_watch(
    member, supervise, reports, survivors, tmp_path
):
    stone = tmp_path / "stone"
    managed = member("one", "--crash-if", stone)
    supervisor = supervise(managed, serves=lambda: not managed.lost)
    await supervisor.start()
    stone.touch()
    watching = asyncio.create_task(supervisor.watch())
    os.kill(managed.process.pid, signal.SIGKILL)
    with pytest.raises(ClusterError, match="without one"):
        async with asyncio.timeout(20):
            await watching
    assert sum("restarting" in what for what in reports.of("one")) == FAST.restarts
    assert "given up" in reports.of("one")[-1]
    await supervisor.stop()
    assert survivors() == []


async def test_the_others_go_on_when_one_is_given_up_but_not_needed(member, supervise, reports, tmp_path):
    stone = tmp_path / "stone"
    managed, two = member("one", "--crash-if", stone), member("two")
    supervisor = supervise(managed, two)
    await supervisor.start()
    stone.touch()
    watching = asyncio.create_task(supervisor.watch())
    os.kill(managed.process.pid, signal.SIGKILL)
    await reports.wait_for("one", "given up")
    assert not watching.done()
    assert two.process.exit_code is None
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await supervisor.stop()


async def test_kill_does_not_wait_for_the_grace(member, supervise, reports, survivors):
    supervisor = supervise(member("stubborn", "--ignore-term"), limits=Limits(stop_s=600, poll_s=0.02))
    await supervisor.start()
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    supervisor.kill()
    async with asyncio.timeout(20):
        await stopping
    assert survivors() == []
