"""What whoever reaches an instance's control port can take from it: its share, for a while."""

import itertools

import msgspec
import pytest
import zmq
from small_blocks import DRAM, HBM, LAYOUT, tokens
from waiting import until

from mempool import transports
from mempool.config import MemPoolConfig, PeerQuota
from mempool.engine import EngineHbm
from mempool.errors import NamespaceMismatch, OutOfBlocks
from mempool.flags import TransferFlags
from mempool.pool import MemPool
from mempool.remote import messages
from mempool.remote.messages import (
    Admitted,
    Allocated,
    AllocMem,
    Call,
    Caller,
    Done,
    Failed,
    FetchRequest,
    FreeMem,
    Offer,
    namespace_digest,
)
from mempool.speaker import Speaker
from mempool.tiers.tier import device_buffers, dram_arena

BLOCKS = 16
SHORT = PeerQuota(lease_s=0.3)


@pytest.fixture
def start(open_things):
    """start(name): a pool of 16 blocks a medium, over sockets."""

    def make(name, engine=None, **settings):
        stores = {DRAM: dram_arena(LAYOUT, BLOCKS)}
        if engine is None:
            stores[HBM] = device_buffers(LAYOUT, BLOCKS)
        return open_things.enter_context(
            MemPool(MemPoolConfig(instance=name, **settings), stores=stores, engine=engine)
        )

    return make


class Stranger:
    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count()

    def ask(self, request, name="stranger", incarnation=1, timeout_s=5.0):
        call = Call(next(self.numbers), Caller(name, incarnation), timeout_s, request)
        self.socket.send(messages.encode(call))
        return messages.decode_reply(self.socket.recv()).reply


@pytest.fixture
def stranger(dealer):
    return lambda pool: Stranger(dealer(pool.info.control))


def offer(count=1, **more):
    return Offer(layout=LAYOUT, medium=DRAM, count=count, **more)


def add_up(pool):
    return all(sum(pool.counts(medium)[:3]) == BLOCKS for medium in pool.local.tiers)


def test_nobody_takes_all_of_a_medium_under_however_many_names(start, stranger):
    pool = start("pool")
    thief, taken = stranger(pool), 0
    for name, request in itertools.product(map(str, range(40)), (AllocMem(DRAM, 1), offer(1))):
        reply = thief.ask(request, name)
        taken += isinstance(reply, Allocated | Admitted)
        if isinstance(reply, Failed):
            assert (reply.kind, "90% together" in reply.cause) == ("OutOfBlocks", True)
    assert taken == 14
    assert pool.counters()["peer_refusals"] == 80 - 14
    pool.free_mem(pool.alloc_mem(2, DRAM))
    assert isinstance(thief.ask(AllocMem(HBM, 13)), Failed)
    assert isinstance(thief.ask(AllocMem(HBM, 12)), Allocated)
    assert add_up(pool)


def test_a_refused_request_evicts_nothing(start, stranger):
    pool = start("pool")
    pool.insert(tokens(BLOCKS), pool.alloc_mem(BLOCKS, DRAM))
    assert isinstance(stranger(pool).ask(AllocMem(DRAM, 13)), Failed)
    assert pool.match(tokens(BLOCKS)).blocks == BLOCKS


def test_blocks_that_nobody_uses_come_back_and_their_holder_hears(start, stranger):
    pool = start("pool", quota=SHORT, expiry_interval_s=0.02)
    thief = stranger(pool)
    taken = thief.ask(AllocMem(DRAM, 5))
    assert pool.counters()["held_blocks"] == 5
    until(lambda: pool.counts(DRAM).free == BLOCKS, "they are free")
    own = pool.alloc_mem(BLOCKS, DRAM)
    reply = thief.ask(FreeMem(DRAM, taken.incarnation, taken.blocks))
    assert (reply.kind, "0.3 s without use" in reply.cause) == ("BadAddress", True)
    assert isinstance(thief.ask(offer(5, incarnation=taken.incarnation, blocks=taken.blocks)), Failed)
    pool.free_mem(own)
    assert add_up(pool)


def test_blocks_that_are_used_stay(start):
    pool, friend = start("pool", quota=SHORT, expiry_interval_s=0.02), start("friend")
    friend.introduce(pool.info)
    own, target = friend.alloc_mem(1, DRAM), friend.alloc_mem(1, DRAM, "pool")
    for _ in range(8):
        friend.transfer("pool", own, target)
    assert pool.counters()["held_blocks"] == 1
    friend.free_mem(target)
    assert pool.counts(DRAM).free == BLOCKS


def test_what_a_dead_incarnation_had_is_free_at_once(start):
    pool, friend = start("pool"), start("friend")
    friend.introduce(pool.info)
    pool.introduce(friend.info)
    own = friend.alloc_mem(4, DRAM)
    friend.alloc_mem(3, DRAM, "pool")
    friend.transfer_with_insert("pool", tokens(4), own, flags=TransferFlags(pin_s=600))
    until(lambda: pool.counters()["incoming"] == 0, "it has landed")
    assert (pool.counters()["leases"], pool.counts(DRAM)[:3]) == (1, (9, 3, 4))
    pool.introduce(msgspec.structs.replace(friend.info, incarnation=friend.info.incarnation ^ 1))
    assert (pool.counters()["leases"], pool.counts(DRAM)[:3]) == (0, (12, 0, 4))
    assert pool._exchange._ledger.instances == 0


def test_pins_for_others_are_bounded(start):
    pool, friend = start("pool"), start("friend")
    friend.introduce(pool.info)
    own = friend.alloc_mem(12, DRAM)
    flags = TransferFlags(pin_s=600)
    friend.transfer_with_insert("pool", tokens(12), own, flags=flags)
    with pytest.raises(OutOfBlocks, match="12 are kept for friend"):
        friend.transfer_with_insert("pool", tokens(1, first=999), own[:1], flags=flags)
    with pytest.raises(ValueError, match="0 to 600 s"):
        friend.transfer_with_insert("pool", tokens(1), own[:1], flags=TransferFlags(pin_s=601))
    pool.free_mem(pool.alloc_mem(4, DRAM))


def test_transfers_that_never_begin_are_bounded(start, stranger):
    pool = start("pool", quota=PeerQuota(transfers_each=4, transfers=6), expiry_interval_s=0.02)
    flood = stranger(pool)
    replies = [flood.ask(offer(0), name, timeout_s=0.5) for name in "aaaaabbbb"]
    assert [isinstance(reply, Admitted) for reply in replies] == [True] * 4 + [False] + [True] * 2 + [
        False
    ] * 2
    until(lambda: pool.counters()["incoming"] == 0, "they are overdue")
    assert isinstance(flood.ask(offer(0), "a"), Admitted)


def test_kv_of_another_model_is_refused(start, stranger):
    pool = start("pool", namespace={"model": "m1"})
    for digest in (b"", b"x" * 16, namespace_digest({"model": "m2"})):
        assert "digests" in stranger(pool).ask(offer(digest=digest)).cause
    other, same = start("other", namespace={"model": "m2"}), start("same", namespace={"model": "m1"})
    with pytest.raises(NamespaceMismatch, match="model: m2 here, m1"):
        other.introduce(pool.info)
    same.introduce(pool.info)
    assert len(same.transfer("pool", same.alloc_mem(2)).addresses) == 2
    assert pool.counts(DRAM).active == 2


def test_kv_under_a_namespace_that_is_not_served_is_refused(start, stranger):
    engine = EngineHbm(on_received=lambda received: None, serves=lambda namespace: namespace == "ours")
    pool = start("pool", engine=engine)
    known = messages.pack(tokens(1))
    for medium in (DRAM, HBM):
        made = msgspec.structs.replace(offer(tokens=known, namespace="theirs"), medium=medium)
        assert "nothing is served here under the namespace 'theirs'" in stranger(pool).ask(made).cause
        assert isinstance(stranger(pool).ask(msgspec.structs.replace(made, namespace="ours")), Admitted)


@pytest.fixture
def speaks_as_friend(monkeypatch):
    """As a transport knows it that asks for keys."""
    friend = Speaker("127.0.0.1", "friend")
    monkeypatch.setattr(transports.zeromq, "speaker_of", lambda frame: friend)


def test_a_connection_with_a_key_speaks_for_its_own_name_alone(start, stranger, speaks_as_friend):
    pool, friend = start("pool"), start("friend")
    friend.introduce(pool.info)
    friend.alloc_mem(2, DRAM, "pool")
    thief = stranger(pool)
    fetch = FetchRequest(messages.pack(tokens(1)), "", bytes(16))
    for request in (AllocMem(DRAM, 1), FreeMem(DRAM, pool.info.incarnation, b""), offer(), fetch):
        reply = thief.ask(request, "somebody")
        assert (reply.kind, reply.cause) == (
            "Refused",
            "this connection speaks for 'friend', not for 'somebody'",
        )
    assert pool.counters()["peer_refusals"] == 4
    assert pool.counters()["held_blocks"] == pool.counts(DRAM).active == 2
    assert isinstance(thief.ask(AllocMem(DRAM, 0), "friend"), Allocated | Done)


def test_fetches_that_are_answered_are_bounded(start, stranger, open_things):
    pool = start("pool", quota=PeerQuota(transfers_each=2, transfers=2), expiry_interval_s=0.02)
    friend, context = start("friend"), zmq.Context()
    open_things.callback(context.destroy, linger=0)
    # It takes what is offered, and answers nothing.
    deaf = context.socket(zmq.ROUTER)
    endpoint = f"tcp://127.0.0.1:{deaf.bind_to_random_port('tcp://127.0.0.1')}"
    pool.introduce(msgspec.structs.replace(friend.info, control=endpoint))
    pool.insert(tokens(1), pool.alloc_mem(1, DRAM))
    fetch = FetchRequest(messages.pack(tokens(1)), "", bytes(16))
    asked = stranger(pool)
    replies = [asked.ask(fetch, "friend", friend.info.incarnation, timeout_s=2.0) for _ in range(5)]
    assert [getattr(reply, "kind", "") for reply in replies] == ["", "", "Refused", "Refused", "Refused"]
    assert pool.counters()["outgoing"] == 2
    until(lambda: pool.counters()["outgoing"] == 0, "they have ended")
    assert pool._exchange._ledger.instances == 0
