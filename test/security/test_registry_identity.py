"""What whoever reaches a registry can do to its members: nothing."""

import contextlib
import time

import msgspec
import pytest
import torch
from small_blocks import DRAM, LAYOUT
from waiting import until

from mempool.config import MemPoolConfig
from mempool.membership.messages import (
    Heartbeat,
    InstanceInfo,
    Join,
    Leave,
    MembershipSnapshot,
    Reason,
    decode_to_member,
    encode,
)
from mempool.membership.registry_server import MembershipRegistry
from mempool.pool import MemPool
from mempool.tiers.tier import dram_arena

LARGEST = 2**63 - 1
AT = {"control": "tcp://127.0.0.1:9", "data": "stream://127.0.0.1:9"}


def info(name, incarnation=1):
    return InstanceInfo(instance=name, incarnation=incarnation, role="x", layout=LAYOUT, namespace={}, **AT)


class Attacker:
    def __init__(self, socket, secret=b"x" * 16):
        self.socket, self.secret = socket, secret

    def join(self, member):
        return self.ask(Join(member, self.secret))

    def ask(self, message):
        self.socket.send(encode(message))
        return decode_to_member(self.socket.recv())


class WatchedMember(MemPool):
    def __init__(self, config):
        self.stopped = []
        super().__init__(config, stores={DRAM: dram_arena(LAYOUT, 16)}, on_stopped=self.stopped.append)


@pytest.fixture
def registry(open_things):
    registry = MembershipRegistry("tcp://127.0.0.1:0", suspicion_s=0.8, death_s=20, max_members=32)
    open_things.callback(registry.close)
    return registry


@pytest.fixture
def start(registry, open_things):
    """start(name): a pool that is a member, and where it says that it stops."""

    def make(name):
        config = MemPoolConfig(instance=name, registries=[registry.endpoint])
        pool = WatchedMember(config)
        open_things.callback(pool.close)
        return pool

    return make


@pytest.fixture
def attacker(dealer, registry):
    return lambda: Attacker(dealer(registry.endpoint))


def test_who_joins_with_a_members_info_and_leaves_ends_nobody(start, attacker):
    a, b = start("a"), start("b")
    until(lambda: "a" in b.others, "they know each other")
    stranger, victim = attacker(), a.info
    assert stranger.join(victim).reason is Reason.TAKEN
    for message in (Heartbeat("a", victim.incarnation), Leave("a", victim.incarnation)):
        assert stranger.ask(message).reason is Reason.DEAD
    stranger.socket.close()
    start("c")
    until(lambda: {"a", "c"} <= set(b.others), "news of before have come")
    assert a.info == b.others["a"] == victim
    assert a.stopped == []


@pytest.mark.parametrize("claimed", [1, LARGEST - 1, LARGEST])
def test_no_claimed_incarnation_stops_a_member_or_locks_its_name_out(start, attacker, claimed):
    a, b = start("a"), start("b")
    until(lambda: "a" in b.others, "they know each other")
    assert attacker().join(msgspec.structs.replace(a.info, incarnation=claimed)).reason is Reason.TAKEN
    # Before it has ever been there, and after it has gone: the name is free, and stays so.
    for member in (info("new", claimed), info("a", claimed)):
        if member.instance == "a":
            a.close()
        stranger = attacker()
        assert isinstance(stranger.join(member), MembershipSnapshot)
        stranger.socket.send(encode(Leave(member.instance, claimed)))
        again = start(member.instance)
        until(lambda pool=again: b.others.get(pool.info.instance) == pool.info, "it is a member")
        assert again.stopped == []
    assert a.stopped == b.stopped == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_instance_whose_clock_is_wrong_comes_back(start, monkeypatch, hours):
    b, first = start("b"), start("a")
    first.close()
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + hours * 3600 * 10**9)
    again = start("a")
    until(lambda: b.others.get("a") == again.info, "it is a member")
    assert again.info.incarnation != first.info.incarnation


@pytest.mark.parametrize("differ", [False, True])
def test_invented_members_keep_nobody_out(registry, attacker, start, differ):
    layout = msgspec.structs.replace(LAYOUT, layers=LAYOUT.layers + 1) if differ else LAYOUT
    inventions = [attacker() for _ in range(32)]
    for n, stranger in enumerate(inventions):
        stranger.socket.send(encode(Join(msgspec.structs.replace(info(f"x{n}"), layout=layout), bytes(16))))
    until(lambda: len(registry._roll.standings()) == 32, "they are members")
    until(lambda: all(each.suspected for each in registry._roll.standings()), "nobody hears of them")
    a, b = start("a"), start("b")
    until(lambda: "a" in b.others and "b" in a.others, "they know each other")
    own = a.alloc_mem(1, DRAM)
    a.local.tier(DRAM).store.scatter(
        torch.zeros(1).long(), torch.ones(1, LAYOUT.block_bytes, dtype=torch.uint8)
    )
    assert len(a.transfer("b", own).addresses) == 1


def test_a_members_own_connections_are_bounded(registry, dealer, start):
    b, strangers = start("b"), []
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            strangers.append(Attacker(stack.enter_context(contextlib.closing(dealer(registry.endpoint)))))
            assert isinstance(strangers[-1].join(info("x")), MembershipSnapshot)
        assert len(registry._identities) <= 1 + 8
    until(lambda: "x" not in b.others, "it is missed")
