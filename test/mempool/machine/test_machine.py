"""Two MemPools under random calls, stalls, deaths and fences."""

import os
from dataclasses import dataclass

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mempool.address import Addresses, Medium
from mempool.errors import (
    BadAddress,
    DeadlinePassed,
    LeaseExpired,
    OutOfBlocks,
    PeerDied,
    Refused,
    StaleAddress,
    TransferError,
)
from mempool.membership.messages import Change, ChangeKind, Standing, new_incarnation
from mempool.remote.sending import Flags
from mempool.transfer.cut import Mode

names = st.sampled_from("ab")
media = st.sampled_from(Medium)
namespaces = st.sampled_from(["", "lora"])
sequences = st.lists(st.sampled_from("xy"), min_size=1, max_size=6).map("".join)
long_sequences = st.lists(st.sampled_from("xy"), min_size=4, max_size=6).map("".join)
sizes = st.sampled_from([0, 1, 2, 3, 4, 6, 9, 13])
flag_sets = st.builds(Flags, medium=media, mode=st.sampled_from(Mode), move=st.booleans())
SECONDS = 5.0


@dataclass(eq=False)
class Flight:
    """A transfer that has not ended. `blocks`: what it reads, and their bytes when it began."""

    source: object
    target: object
    blocks: dict
    named: list
    tokens: tuple | None
    flags: Flags
    lease: object = None
    future: object = None
    likely: tuple = ()


class PoolMachine(RuleBasedStateMachine):
    make_sides = model = None

    def __init__(self):
        super().__init__()
        self.start = self.make_sides()
        self.flights = []
        self.junk = self.calm = 0
        self.sides = {}
        for name in "ab":
            self._start(name)

    def teardown(self):
        for name in "ab":
            self._open(name)
        for side in self.sides.values():
            side.pool.close()

    def _start(self, name):
        self.sides[name] = self.start(name)
        self._announce(name, ChangeKind.JOINED)

    def _announce(self, name, kind):
        """As the membership tells the other side, and a new one of it."""
        side, other = self.sides[name], self._other(name)
        if other is None:
            return
        info = side.pool.info
        gone = kind is ChangeKind.DIED
        other.pool._member.members = {} if gone else {name: Standing(info)}
        other.pool._changed(Change(kind, info))
        if not gone:
            side.pool._member.members = {other.name: Standing(other.pool.info)}
            side.pool._changed(Change(ChangeKind.JOINED, other.pool.info))

    def _other(self, name):
        return self.sides.get("b" if name == "a" else "a")

    def _busy(self, side):
        """Blocks whose bytes are to stay for a transfer."""
        return {key for flight in self.flights if flight.source is side for key in flight.blocks}

    def _named(self, side):
        return {key for flight in self.flights if flight.target is side for key in flight.named}

    def _free_to_use(self, side):
        return sorted(set(side.active) - self._busy(side))

    def _published(self, side, data):
        """A namespace and letters, most often of what is published."""
        return data.draw(st.sampled_from([("", ""), *sorted(side.published())]))

    def _content(self):
        self.junk += 1
        return self.model.kv_of("junk", str(self.junk))

    def _draw(self, data, keys, most=4):
        keys = sorted(keys)
        if not keys:
            return []
        return data.draw(st.lists(st.sampled_from(keys), unique=True, min_size=1, max_size=most))

    def _given(self, side, addresses):
        """New active blocks of a side, which nobody else has."""
        keys = self.model.keys_of([addresses])
        taken = {*side.active, *side.held, *side.leased(), *self._busy(side), *side.historical()}
        assert taken.isdisjoint(keys)
        assert len(set(keys)) == len(keys)
        return keys

    # Calls that need nobody else.

    @rule(name=names, medium=media, size=sizes)
    def alloc(self, name, medium, size):
        side = self.sides[name]
        before, free, room = side.published(), side.pool.counts(medium).free, side.evictable(medium)
        try:
            addresses = side.pool.alloc_mem(size, medium)
        except OutOfBlocks:
            assert size > free + room or side.leases or self.flights
        else:
            assert len(addresses) == size
            for key in self._given(side, addresses):
                side.write(key, self._content())
        assert side.published().keys() <= before.keys()

    @rule(name=names, every=st.booleans(), data=st.data())
    def free(self, name, every, data):
        side = self.sides[name]
        keys = sorted(side.active) if every else self._draw(data, side.active)
        side.pool.free_mem(side.addresses(keys))
        for key in keys:
            del side.active[key]

    @rule(name=names, data=st.data())
    def free_what_is_not_active(self, name, data):
        side = self.sides[name]
        # Which blocks a transfer to here has is not known before it has landed.
        quiet = not any(flight.target is side for flight in self.flights)
        every = {(medium, n) for medium in Medium for n in range(side.pool.counts(medium).total) if quiet}
        for key in self._draw(data, every - set(side.active) - set(side.held)):
            (address,) = side.addresses([key])
            with pytest.raises(BadAddress):
                side.pool.free_mem(address)
            with pytest.raises(StaleAddress):
                side.pool.free_mem(Addresses(address.owner._replace(incarnation=1), address.blocks))
        if side.active:
            address = side.addresses(sorted(side.active)[:1])[0]
            with pytest.raises(BadAddress):
                side.pool.free_mem(Addresses(address.owner, [*address.blocks, *address.blocks]))

    @rule(name=names, namespace=namespaces, letters=sequences, medium=media, count=st.integers(1, 6),
          head=st.integers(0, 7), data=st.data())  # fmt: skip
    def insert(self, name, namespace, letters, medium, count, head, data):
        side = self.sides[name]
        count = min(count, len(letters))
        if len(self._free_to_use(side)) < count:
            self.alloc(name, medium, count)
        keys = self._draw(data, self._free_to_use(side), count)
        # Most often what may be inserted; it overlaps with what is there, or begins where that ends.
        head = min(head, side.known(namespace, letters)) if head < 7 else head
        letters = letters[: head + len(keys)]
        head = len(letters) - len(keys)
        if head < 0:
            keys, head = keys[-head:], 0
        self._insert(side, namespace, letters, keys)

    @rule(name=names, namespace=namespaces, letters=long_sequences, medium=media)
    def publish_all_of(self, name, namespace, letters, medium):
        side = self.sides[name]
        count = len(letters) - side.known(namespace, letters)
        self.alloc(name, medium, count)
        keys = [key for key in reversed(side.active) if key in self._free_to_use(side)][:count]
        if len(keys) == count:
            self._insert(side, namespace, letters, keys)

    def _insert(self, side, namespace, letters, keys):
        head = len(letters) - len(keys)
        for n, key in enumerate(keys, start=head + 1):
            side.write(key, self.model.kv_of(namespace, letters[:n]))
        before = side.published()
        tokens, addresses = self.model.tokens_of(letters), side.addresses(keys)
        if side.known(namespace, letters, before) < head:
            with pytest.raises(ValueError, match="before the first"):
                side.pool.insert(tokens, addresses, namespace=namespace)
            assert side.published() == before
            return
        returned = self.model.keys_of(side.pool.insert(tokens, addresses, namespace=namespace))
        places = {key: (namespace, letters[:n]) for n, key in enumerate(keys, start=head + 1)}
        for key, prefix in places.items():
            assert (key in returned) == (side.owner(key[0]) in before.get(prefix, {}))
            if key not in returned:
                del side.active[key]
        assert side.published().keys() == before.keys() | set(places.values())

    @rule(name=names, letters=sequences, seconds=st.sampled_from([None, 60.0, 60.0]), data=st.data())
    def match(self, name, letters, seconds, data):
        side = self.sides[name]
        namespace, head = self._published(side, data)
        letters = (head + letters)[:6]
        known = side.known(namespace, letters)
        matched = side.pool.match(self.model.tokens_of(letters), namespace=namespace, lease_seconds=seconds)
        assert (matched.blocks, matched.tokens) == (known, 2 * known)
        places = [(a.instance, (a.medium, a.block)) for part in matched.addresses for a in part]
        assert len(places) == known
        found = {
            key: self.model.kv_of(namespace, letters[:n])
            for n, (instance, key) in enumerate(places, start=1)
            if instance == name
        }
        # A second insert of what is there changes nothing.
        if known:
            assert side.pool.insert(self.model.tokens_of(letters[:known]), matched.addresses,
                                    namespace=namespace) == []  # fmt: skip
        if seconds is not None and known:
            matched.check()
            side.leases.append((matched, found))

    @precondition(lambda self: any(side.leases for side in self.sides.values()))
    @rule(data=st.data(), expires=st.booleans())
    def end_lease(self, data, expires):
        side = data.draw(st.sampled_from([side for side in self.sides.values() if side.leases]))
        matched, _ = side.leases.pop(data.draw(st.integers(0, len(side.leases) - 1)))
        if expires:
            matched.renew(0.0)
            side.pool.local.expire()
        else:
            matched.release()
        with pytest.raises(LeaseExpired):
            matched.check()

    @rule(name=names, letters=sequences, data=st.data())
    def delete(self, name, letters, data):
        side = self.sides[name]
        namespace, published = self._published(side, data)
        letters = published or letters
        before = side.published()
        gone = side.pool.delete(self.model.tokens_of(letters), namespace=namespace)
        after = side.published()
        lost = before.keys() - after.keys()
        assert gone == len(lost)
        assert all(space == namespace for space, _ in lost)
        assert (namespace, letters) not in after
        assert all(p.startswith(letters) or letters.startswith(p) for _, p in lost)

    @rule(name=names, count=st.integers(1, 8))
    def swap_out(self, name, count):
        side = self.sides[name]
        before, hbm = side.published(), side.owner(Medium.HBM)
        gone = side.pool.swap_out(count)
        after = side.published()
        assert gone == sum(hbm in copies for copies in before.values()) - sum(
            hbm in copies for copies in after.values()
        )
        assert gone <= count
        assert after.keys() <= before.keys()

    @rule(name=names, data=st.data())
    def swap_in(self, name, data):
        side = self.sides[name]
        dram, hbm = side.owner(Medium.DRAM), side.owner(Medium.HBM)
        published = side.published()
        prefixes = {copies[dram]: prefix for prefix, copies in published.items() if dram in copies}
        asked = self._draw(data, prefixes)
        fresh = not any(hbm in published[prefixes[block]] for block in asked)
        with pytest.MonkeyPatch.context():
            lease = [
                side.pool.match(self.model.tokens_of(prefixes[b][1]), namespace=prefixes[b][0]) for b in asked
            ]
        try:
            copies = side.pool.swap_in(Addresses(dram, asked))
        except OutOfBlocks:
            pass
        except BadAddress:
            assert not fresh or not asked
        else:
            after = side.published()
            for block, copy in zip(asked, copies.blocks.tolist(), strict=True):
                assert after[prefixes[block]] == {**published[prefixes[block]], hbm: copy}
        finally:
            for each in lease:
                each.release()

    # Calls between the two.

    @rule(name=names, medium=media, size=sizes)
    def remote_alloc(self, name, medium, size):
        side, other = self.sides[name], self._other(name)
        try:
            addresses = side.pool.alloc_mem(size, medium, other.name, seconds=SECONDS)
        except OutOfBlocks:
            assert size > other.pool.counts(medium).free
            return
        assert addresses.owner == other.owner(medium)
        rows = other.rows(medium)
        other.held.update({key: rows[key[1]] for key in self._given(other, addresses)})

    @rule(name=names, data=st.data())
    def remote_free(self, name, data):
        side, other = self.sides[name], self._other(name)
        named = self._named(other)
        keys = self._draw(data, set(other.held) - other.pointed_at)
        for key, address in zip(keys, other.addresses(keys), strict=True):
            if key in named:
                with pytest.raises(BadAddress):
                    side.pool.free_mem(address, seconds=SECONDS)
                continue
            side.pool.free_mem(address, seconds=SECONDS)
            del other.held[key]
            with pytest.raises(BadAddress):
                side.pool.free_mem(address, seconds=SECONDS)
            with pytest.raises(StaleAddress):
                side.pool.free_mem(Addresses(address.owner._replace(incarnation=1), address.blocks))

    @rule(name=names, data=st.data(), flags=flag_sets, to_named=st.booleans(), kind=st.sampled_from("alp"),
          stalls=st.booleans())  # fmt: skip
    def transfer(self, name, data, flags, to_named, kind, stalls):
        """`kind`: of active, leased, or published and not leased blocks."""
        side, other = self.sides[name], self._other(name)
        if stalls:
            other.gate.clear()
        leased = data.draw(st.sampled_from(side.leases))[1] if side.leases else {}
        blocks = {"a": side.active, "l": leased, "p": side.historical()}[kind]
        keys = self._draw(data, blocks, 6)
        if not keys:
            return
        self._send(side, other, {key: blocks[key] for key in keys}, flags, data if to_named else None)

    @rule(name=names, count=st.integers(1, 6), flags=flag_sets, to_named=st.booleans(), stalls=st.booleans(),
          data=st.data())  # fmt: skip
    def transfer_with_insert(self, name, count, flags, to_named, stalls, data):
        side, other = self.sides[name], self._other(name)
        if stalls:
            other.gate.clear()
        namespace, letters = self._published(side, data)
        matched = side.pool.match(self.model.tokens_of(letters), namespace=namespace)
        if not matched.blocks or any(part.owner.instance != name for part in matched.addresses):
            matched.release()
            return
        keys = self.model.keys_of(matched.addresses)[-count:]
        blocks = {
            key: self.model.kv_of(namespace, letters[:n])
            for n, key in enumerate(keys, start=len(letters) - len(keys) + 1)
        }
        self._send(side, other, blocks, flags, data if to_named else None, (namespace, letters), matched)

    @rule(name=names, data=st.data(), flags=flag_sets)
    def transfer_that_is_overdue(self, name, data, flags):
        side, other = self.sides[name], self._other(name)
        keys = self._draw(data, self._free_to_use(side))
        other.gate.clear()
        if not keys:
            return
        with pytest.raises((DeadlinePassed, OutOfBlocks)):
            side.pool.transfer(other.name, side.addresses(keys), None, flags, seconds=0.004)
        for key in keys:
            side.write(key, self._content())
        self.model.until(lambda: other.pool.counters()["incoming"] == self._incoming(other), "its end there")

    def _send(self, side, other, blocks, flags, data, tokens=None, lease=None):
        named = []
        if data is not None:
            medium = data.draw(media)
            room = [
                k for k in sorted(set(other.held) - other.pointed_at - self._named(other)) if k[0] is medium
            ]
            if len(room) < len(blocks):
                data = None
            else:
                named = room[: len(blocks)]
        target = None if data is None else Addresses(other.owner(medium), [block for _, block in named])
        flight = Flight(side, other, blocks, named, tokens, flags, lease)
        if not named:
            flight.likely = (OutOfBlocks,)
        if tokens and (not other.gate.is_set() or other.known(*tokens) < len(tokens[1]) - len(blocks)):
            flight.likely += (Refused,)
        source, how = side.addresses(blocks), (target, flags, b"cookie")
        if tokens is None:
            flight.future = side.pool.start.transfer(other.name, source, *how, seconds=SECONDS)
        else:
            flight.future = side.pool.start.transfer_with_insert(
                other.name,
                self.model.tokens_of(tokens[1]),
                source,
                *how,
                namespace=tokens[0],
                seconds=SECONDS,
            )
        self.flights.append(flight)
        if other.gate.is_set():
            self._land(flight)
        else:
            # Admitted or refused, as far as it gets.
            self.model.until(
                lambda: flight.future.done() or other.pool.counters()["incoming"] >= self._incoming(other),
                "an answer",
            )
            if flight.future.done():
                self._land(flight)

    def _incoming(self, side):
        return sum(flight.target is side and not flight.future.done() for flight in self.flights)

    def _land(self, flight, *, fails=()):
        other = flight.target
        before = other.published() if not fails else {}
        try:
            landed = flight.future.result(timeout=SECONDS)
        except (*fails, *flight.likely):
            pass
        else:
            assert not fails
            self._landed(flight, landed, before)
            if flight.flags.move:
                self._moved(flight)
        finally:
            self.flights.remove(flight)
            if flight.lease is not None:
                flight.lease.release()

    def _landed(self, flight, landed, before):
        other, contents = flight.target, list(flight.blocks.values())
        keys = self.model.keys_of([landed.addresses])
        assert landed.private == b"cookie"
        assert landed.addresses.owner.incarnation == other.pool.local.incarnation
        assert landed.present + len(keys) == len(contents)
        assert not flight.named or keys == flight.named
        if flight.tokens is None:
            assert landed.present == 0
            other.held.update(zip(keys, contents, strict=True))
            return
        namespace, letters = flight.tokens
        assert other.known(namespace, letters) == len(letters)
        for key in flight.named:
            del other.held[key]

    def _moved(self, flight):
        for key in flight.blocks:
            flight.source.active.pop(key, None)

    @rule(name=names, medium=media, data=st.data())
    def publish_a_copy_at_the_other(self, name, medium, data):
        side, other = self.sides[name], self._other(name)
        own = {prefix: copies for prefix, copies in side.published().items() if len(copies) == 1}
        if not own or not other.gate.is_set():
            return
        prefix = data.draw(st.sampled_from(sorted(own)))
        (owner, block), content = *own[prefix].items(), self.model.kv_of(*prefix)
        if owner.instance == name:
            self._send(side, other, {(owner.medium, block): content}, Flags(medium=medium), None)
            for key in [key for key, held in other.held.items() if held == content][:1]:
                tokens, (address,) = self.model.tokens_of(prefix[1]), other.addresses([key])
                if not side.pool.insert(tokens, address, namespace=prefix[0]):
                    other.pointed_at.add(key)

    # What befalls them.

    @precondition(lambda self: self.calm > 30)
    @rule(name=names, sees_it_first=st.booleans())
    def kill(self, name, sees_it_first):
        """Without goodbye; the other finds out by itself, or is told."""
        side, other = self.sides[name], self._other(name)
        side.pool.close()
        if sees_it_first:
            with pytest.raises(PeerDied):
                other.pool.alloc_mem(1, Medium.DRAM, name, seconds=SECONDS)
        self._end_of(side, other)
        self._start(name)

    @precondition(lambda self: self.calm > 30)
    @rule(name=names, knows_it_first=st.booleans())
    def fence(self, name, knows_it_first):
        """The other took it for dead, and it begins anew."""
        side, other = self.sides[name], self._other(name)
        active, leases = side.addresses(sorted(side.active)), side.leases
        if not knows_it_first:
            self._fence(side)
        self._end_of(side, other)
        if knows_it_first:
            self._fence(side)
        side.forget()
        self._announce(name, ChangeKind.JOINED)
        assert side.published() == {}
        for address in active:
            with pytest.raises(StaleAddress):
                side.pool.free_mem(address)
        for matched, _ in leases:
            with pytest.raises(LeaseExpired):
                matched.check()
            matched.release()

    def _fence(self, side):
        old = side.pool.info.incarnation
        new = new_incarnation(old)
        side.pool._member.info = msgspec.structs.replace(side.pool.info, incarnation=new)
        side.pool._fenced(old, new)
        side.forget()

    def _end_of(self, side, other):
        """The other is told that this incarnation is no more."""
        self.calm = 0
        other.pool._member.members = {}
        other.pool._changed(Change(ChangeKind.DIED, side.pool.info))
        for flight in list(self.flights):
            self._land(flight, fails=(TransferError,))
        other.held, other.pointed_at = {}, set()
        side.pointed_at = set()
        owners = {owner for copies in other.published().values() for owner in copies}
        assert all(owner.instance == other.name for owner in owners)

    @rule(name=names)
    def open_gate(self, name):
        self._open(name)

    def _open(self, name):
        side = self.sides[name]
        side.gate.set()
        for flight in [flight for flight in self.flights if flight.target is side]:
            self._land(flight)

    @invariant()
    def every_block_is_accounted_for_and_has_its_bytes(self):
        self.calm += 1
        for side in self.sides.values():
            side.check(self.flights)


def test_any_sequence_of_calls_keeps_every_block_with_its_bytes(make_sides, model):
    machine = type("Machine", (PoolMachine,), {"make_sides": staticmethod(make_sides), "model": model})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", "100")),
            derandomize="EXAMPLES" not in os.environ,
            stateful_step_count=80,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
