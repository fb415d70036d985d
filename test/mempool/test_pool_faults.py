"""MemPools in processes of their own, and a registry, killed or stopped in the middle of what they do."""

import contextlib
import functools
import json
import os
import select
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from waiting import until

# A minute long, and its processes are to be heard every second, which a busy machine cannot promise.
pytestmark = pytest.mark.full

PROCESS = Path(__file__).with_name("pool_process.py")
BLOCKS = 24
SUSPICION, DEATH = 1.5, 3.0
# Nothing here may need it: what ends by its deadline has not been noticed.
LONG = 60.0
FAILED = ("PeerDied", "TransferError")


class Child:
    def __init__(self, popen, *command):
        self.popen = popen([sys.executable, *map(str, command)], stdin=PIPE, stdout=PIPE, text=True)
        self.ready = False

    def line(self):
        ready, _, _ = select.select([self.popen.stdout], [], [], 100)
        assert ready, "no answer"
        return self.popen.stdout.readline()

    def __call__(self, *call):
        self.popen.stdin.write(json.dumps(call) + "\n")
        self.popen.stdin.flush()
        return json.loads(self.line())

    def signal(self, number):
        os.kill(self.popen.pid, number)

    def wait_stopped(self):
        stat = Path(f"/proc/{self.popen.pid}/stat")
        until(lambda: stat.read_text().rsplit(") ", 1)[1][0] == "T", "it is stopped")

    def end(self):
        if self.popen.poll() is None:
            self.signal(signal.SIGKILL)
        self.popen.communicate()


class Cluster:
    """Instances a, b and c, which are all as new when a test begins."""

    def __init__(self, stack, popen):
        self._stack, self._popen = stack, popen
        self.endpoint = None
        self.registry = self.start_registry("tcp://127.0.0.1:0")
        self.children = {name: self.start(name) for name in "abc"}

    def start(self, name):
        child = Child(self._popen, PROCESS, name, self.endpoint)
        self._stack.callback(child.end)
        return child

    def start_registry(self, url):
        how = ("--suspicion", SUSPICION, "--death", DEATH, "--log-level", "error")
        self.registry = Child(self._popen, "-m", "mempool.membership.registry", "--bind", url, *how)
        self._stack.callback(self.registry.end)
        self.endpoint = self.registry.line().strip()
        return self.registry

    def heal(self):
        for name, child in self.children.items():
            if child.popen.poll() is not None:
                child = self.children[name] = self.start(name)
            if not child.ready:
                assert json.loads(child.line()) == "ready"
                child.ready = True
            child.signal(signal.SIGCONT)
            child("drop")
        self.a, self.b, self.c = self.children.values()
        self.all_know_each_other()

    def all_know_each_other(self):
        for name, child in self.children.items():
            for other in self.children:
                if name != other:
                    knows = functools.partial(child, "knows", other)
                    until(knows, f"{name} knows {other}")


@pytest.fixture(scope="module")
def processes(torch_python):
    with contextlib.ExitStack() as stack:
        yield Cluster(stack, torch_python.popen)


@pytest.fixture
def cluster(processes):
    processes.heal()
    return processes


def settled(child, before):
    """Everything is as it was: blocks, tickets, what is held, descriptors."""
    until(lambda: child("state") == before, f"{child('state')} becomes {before}")


def warmed(cluster, *children):
    """Their states, once each has talked to `c`, and `c` to each."""
    for child in children:
        child("fill", 1)
        assert child("carry", "c", 1) == "done"
        child("drop")
    cluster.c("fill", 9)
    for name in "ab":
        assert cluster.c("carry", name, 1) == "done"
    cluster.c("drop")
    return [child("state") for child in children]


def test_a_killed_receiver_fails_transfers_and_requests_to_it(cluster):
    (before,) = warmed(cluster, cluster.a)
    cluster.a("fill", 1)
    cluster.b("signal_when", "bytes_received", signal.SIGKILL)
    cluster.a("send", "b", BLOCKS, LONG)
    assert cluster.a("result") in FAILED
    assert cluster.b.popen.wait(60) == -signal.SIGKILL
    cluster.a("alloc_at", "b", 1, LONG)
    assert cluster.a("result") == "PeerDied"
    assert cluster.a("carry", "c", BLOCKS) == "done"
    cluster.a("drop")
    until(lambda: not cluster.a("knows", "b"), "the death is known")
    # Its own connections to the dead are closed; those of the dead to it were.
    until(lambda: cluster.a("state")["fds"] <= before["fds"], "descriptors are closed")
    settled(cluster.a, {**before, "fds": cluster.a("state")["fds"]})


def test_a_stopped_receiver_costs_the_deadline_and_is_fenced(cluster):
    (before,) = warmed(cluster, cluster.a)
    old = cluster.a("knows", "b")
    cluster.a("fill", 1)
    cluster.b("signal_when", "bytes_received", signal.SIGSTOP)
    cluster.a("send", "b", BLOCKS, 1.0)
    assert cluster.a("result") == "DeadlinePassed"
    cluster.b.wait_stopped()
    assert cluster.a("carry", "c", 4) == "done"
    until(lambda: not cluster.a("knows", "b"), "the stopped one is silent")
    cluster.a("alloc_at", "b", 1, LONG)
    assert cluster.a("result") == "PeerDied"
    until(lambda: not cluster.a("remembers", "b"), "the stopped one is dead")
    cluster.b.signal(signal.SIGCONT)
    until(lambda: cluster.a("knows", "b") > old, "it joins anew")
    until(lambda: cluster.b("incarnation") > old, "it was fenced")
    state = cluster.b("state")
    assert (state["incoming"], state["held_blocks"], state["counts"]) == (0, 0, [BLOCKS, 0, 0, BLOCKS])
    assert cluster.a("carry", "b", BLOCKS) == "done"
    cluster.a("drop")
    assert cluster.a("state")["counts"] == before["counts"]


def test_a_receiver_declared_dead_ends_the_transfer_early(cluster):
    (before,) = warmed(cluster, cluster.a)
    cluster.a("fill", 1)
    cluster.b("signal_when", "bytes_received", signal.SIGSTOP)
    cluster.a("send", "b", BLOCKS, LONG)
    assert cluster.a("result") == "PeerDied"
    assert cluster.a("carry", "c", BLOCKS) == "done"
    cluster.a("drop")
    state = cluster.a("state")
    assert {**state, "fds": 0} == {**before, "fds": 0}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_sender_had_under_way_is_given_back_when_it_is_dead(cluster, number):
    _, before = warmed(cluster, cluster.b, cluster.a)
    cluster.b("fill", 1)
    cluster.b("alloc_at", "a", 1, LONG)
    cluster.b("signal_when", "bytes_sent", number)
    cluster.b("send", "a", BLOCKS - 1, LONG)
    until(lambda: not cluster.a("knows", "b"), "the sender is gone or silent")
    until(lambda: cluster.a("state")["counts"] == before["counts"], "its blocks are free again")
    state = cluster.a("state")
    assert (state["incoming"], state["held_blocks"]) == (0, 0)
    assert cluster.c("state")["held_blocks"] == 0
    cluster.c("fill", 5)
    assert cluster.c("carry", "a", BLOCKS) == "done"
    if number == signal.SIGSTOP:
        cluster.b.signal(signal.SIGCONT)
        # Whichever it hears first: that it was declared dead, or that its blocks are not waited for any more.
        assert cluster.b("result") in (*FAILED, "Refused")
        until(lambda: cluster.b("state")["outgoing"] == 0, "it gave up")
        until(lambda: cluster.b("state")["counts"] == [BLOCKS, 0, 0, BLOCKS], "it begins anew")
        cluster.all_know_each_other()
        cluster.b("fill", 1)
        assert cluster.b("carry", "a", BLOCKS) == "done"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_source_that_is_gone_costs_its_part_of_a_prefix(cluster, number):
    blocks, part = 18, 6
    late = cluster.start("d")
    assert json.loads(late.line()) == "ready"
    until(lambda: cluster.a("knows", "d") and late("knows", "a"), "the new one is known")
    for source in (cluster.b, cluster.c, late):
        source("publish", blocks)
    before = cluster.a("state")
    cluster.c("signal_when", "bytes_sent", number)
    cluster.a("fetch", ["b", "c", "d"], blocks, LONG)
    assert cluster.a("fetched") == part
    assert cluster.a("published", blocks) == list(range(part))
    free, active, historical, _ = before["counts"]
    left = {**before, "counts": [free - part, active, historical + part, BLOCKS], "fds": 0}
    until(lambda: {**cluster.a("state"), "fds": 0} == left, "all else is free again")
    cluster.a("fetch", ["b", "d"], blocks, LONG)
    assert cluster.a("fetched") == blocks
    assert cluster.a("published", blocks) == list(range(blocks))
    for child in (cluster.a, cluster.b, late):
        child("clear")
        until(lambda child=child: child("state")["counts"] == [BLOCKS, 0, 0, BLOCKS], "nothing is leased")
    late.end()


def test_a_restarted_registry_stops_no_transfer_and_kills_nobody(cluster):
    warmed(cluster, cluster.a)
    incarnations = [child("incarnation") for child in (cluster.a, cluster.b, cluster.c)]
    cluster.a("fill", 1)
    cluster.a("send", "b", BLOCKS, LONG)
    cluster.registry.end()
    assert cluster.a("result") == "done"
    assert cluster.a("carry", "c", BLOCKS) == "done"
    cluster.start_registry(cluster.endpoint)
    late = cluster.start("d")
    assert json.loads(late.line()) == "ready"
    for name in cluster.children:
        until(lambda to=name: late("knows", to), f"the new one knows {name}")
    until(lambda: cluster.a("knows", "d"), "the new one is known")
    assert cluster.a("carry", "d", BLOCKS) == "done"
    assert cluster.a("carry", "b", BLOCKS) == "done"
    assert incarnations == [child("incarnation") for child in (cluster.a, cluster.b, cluster.c)]
    for child in (cluster.a, cluster.b, cluster.c, late):
        state = child("state")
        assert (state["incoming"], state["outgoing"], state["held_blocks"]) == (0, 0, 0)
    late.end()
