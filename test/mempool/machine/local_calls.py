"""The machine's two pools, and the calls that need nobody else."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from pool_model import keys_of, kv_of, tokens_of

from mempool.address import Addresses, Medium
from mempool.errors import BadAddress, LeaseExpired, OutOfBlocks, StaleAddress
from mempool.flags import TransferFlags
from mempool.membership.messages import Change, ChangeKind, MemberStatus

names = st.sampled_from("ab")
media = st.sampled_from(Medium)
# One draw, whatever is made of it: what there is to choose from is up to threads, which no replay repeats.
chances = st.randoms(use_true_random=True)
namespaces = st.sampled_from(["", "lora"])
sequences = st.lists(st.sampled_from("xy"), min_size=1, max_size=6).map("".join)
long_sequences = st.lists(st.sampled_from("xy"), min_size=4, max_size=6).map("".join)
sizes = st.sampled_from([0, 1, 2, 3, 4, 6, 9, 13])
SECONDS = 5.0


@dataclass(eq=False)
class Flight:
    """A transfer that has not ended. `blocks`: what it reads, and their bytes when it began."""

    source: object
    target: object
    blocks: dict
    named: list
    tokens: tuple | None
    flags: TransferFlags
    lease: object = None
    future: object = None
    likely: tuple = ()


class LocalCalls(RuleBasedStateMachine):
    make_sides = None

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
        self._announce(name)

    def _announce(self, name):
        """As the membership tells the other side of a new one, and that one of the other."""
        side, other = self.sides[name], self._other(name)
        for new, to in ((side, other), (other, side)):
            if other is not None:
                to.pool._cluster._client.members = {new.name: MemberStatus(new.pool.info)}
                to.pool._cluster.changed(Change(ChangeKind.JOINED, new.pool.info))

    def _other(self, name):
        return self.sides.get("b" if name == "a" else "a")

    def _busy(self, side):
        """Blocks whose bytes are to stay for a transfer."""
        return {key for flight in self.flights if flight.source is side for key in flight.blocks}

    def _named(self, side):
        return {key for flight in self.flights if flight.target is side for key in flight.named}

    def _free_to_use(self, side):
        return sorted(set(side.active) - self._busy(side))

    @staticmethod
    def _published(side, chance):
        """A namespace and letters, most often of what is published."""
        return chance.choice([("", ""), *sorted(side.published())])

    def _content(self):
        self.junk += 1
        return kv_of("junk", str(self.junk))

    @staticmethod
    def _some(chance, keys, max_keys=4):
        """At least one, where there is one."""
        keys = sorted(keys)
        return chance.sample(keys, chance.randint(min(1, len(keys)), min(max_keys, len(keys))))

    def _given(self, side, addresses):
        """New active blocks of a side, which nobody else has."""
        keys = keys_of([addresses])
        taken = {*side.active, *side.held, *side.leased(), *self._busy(side), *side.historical()}
        assert taken.isdisjoint(keys)
        assert len(set(keys)) == len(keys)
        return keys

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

    @rule(name=names, every=st.booleans(), chance=chances)
    def free(self, name, every, chance):
        side = self.sides[name]
        keys = sorted(side.active) if every else self._some(chance, side.active)
        side.pool.free_mem(side.addresses(keys))
        for key in keys:
            del side.active[key]

    @rule(name=names, chance=chances)
    def free_what_is_not_active(self, name, chance):
        side = self.sides[name]
        # Which blocks a transfer to here has is not known before it has landed.
        quiet = not any(flight.target is side for flight in self.flights)
        every = {(medium, n) for medium in Medium for n in range(side.pool.counts(medium).total) if quiet}
        for key in self._some(chance, every - set(side.active) - set(side.held)):
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
          head=st.integers(0, 7), chance=chances)  # fmt: skip
    def insert(self, name, namespace, letters, medium, count, head, chance):
        side = self.sides[name]
        count = min(count, len(letters))
        if len(self._free_to_use(side)) < count:
            self.alloc(name, medium, count)
        keys = self._some(chance, self._free_to_use(side), count)
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
            side.write(key, kv_of(namespace, letters[:n]))
        before = side.published()
        tokens, addresses = tokens_of(letters), side.addresses(keys)
        if side.known(namespace, letters, before) < head:
            with pytest.raises(ValueError, match="before the first"):
                side.pool.insert(tokens, addresses, namespace=namespace)
            assert side.published() == before
            return
        returned = keys_of(side.pool.insert(tokens, addresses, namespace=namespace))
        places = {key: (namespace, letters[:n]) for n, key in enumerate(keys, start=head + 1)}
        for key, prefix in places.items():
            assert (key in returned) == (side.owner(key[0]) in before.get(prefix, {}))
            if key not in returned:
                del side.active[key]
        assert side.published().keys() == before.keys() | set(places.values())

    @rule(name=names, letters=sequences, timeout_s=st.sampled_from([None, 60.0, 60.0]), chance=chances)
    def match(self, name, letters, timeout_s, chance):
        side = self.sides[name]
        namespace, head = self._published(side, chance)
        letters = (head + letters)[:6]
        known = side.known(namespace, letters)
        matched = side.pool.match(tokens_of(letters), namespace=namespace, lease_s=timeout_s)
        assert (matched.blocks, matched.tokens) == (known, 2 * known)
        places = [(a.instance, (a.medium, a.block)) for part in matched.addresses for a in part]
        assert len(places) == known
        found = {
            key: kv_of(namespace, letters[:n])
            for n, (instance, key) in enumerate(places, start=1)
            if instance == name
        }
        # A second insert of what is there changes nothing.
        if known:
            assert side.pool.insert(tokens_of(letters[:known]), matched.addresses,
                                    namespace=namespace) == []  # fmt: skip
        if timeout_s is not None and known:
            matched.check()
            side.leases.append((matched, found))

    @precondition(lambda self: any(side.leases for side in self.sides.values()))
    @rule(chance=chances, expires=st.booleans())
    def end_lease(self, chance, expires):
        side = chance.choice([side for side in self.sides.values() if side.leases])
        matched, _ = side.leases.pop(chance.randrange(len(side.leases)))
        if expires:
            matched.renew(0.0)
            side.pool.local.expire()
        else:
            matched.release()
        with pytest.raises(LeaseExpired):
            matched.check()

    @rule(name=names, letters=sequences, chance=chances)
    def delete(self, name, letters, chance):
        side = self.sides[name]
        namespace, published = self._published(side, chance)
        letters = published or letters
        before = side.published()
        gone = side.pool.delete(tokens_of(letters), namespace=namespace)
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
        leased = side.leased().keys() & side.historical().keys()
        gone = side.pool.swap_out(count)
        assert leased <= side.historical().keys()
        after = side.published()
        assert gone == sum(hbm in copies for copies in before.values()) - sum(
            hbm in copies for copies in after.values()
        )
        assert gone <= count
        assert after.keys() <= before.keys()

    @rule(name=names, chance=chances)
    def swap_in(self, name, chance):
        side = self.sides[name]
        dram, hbm = side.owner(Medium.DRAM), side.owner(Medium.HBM)
        published = side.published()
        prefixes = {copies[dram]: prefix for prefix, copies in published.items() if dram in copies}
        asked = self._some(chance, prefixes)
        fresh = not any(hbm in published[prefixes[block]] for block in asked)
        leases = [
            side.pool.match(tokens_of(letters), namespace=namespace)
            for namespace, letters in (prefixes[block] for block in asked)
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
            for lease in leases:
                lease.release()
