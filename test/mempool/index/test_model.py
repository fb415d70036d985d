"""Random calls against a model that knows nothing but blocks in a dictionary, and a mirror beside."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from index_mirror import Mirror

from mempool.address import Addresses, Medium, Owner
from mempool.index.index import Index

PAGE = 2
OWNERS = [
    Owner("a", 1, Medium.HBM),
    Owner("a", 1, Medium.DRAM),
    Owner("b", 1, Medium.DRAM),
    Owner("b", 2, Medium.DRAM),
]
namespaces = st.sampled_from(["", "lora"])
sequences = st.lists(st.sampled_from("ab"), max_size=6).map("".join)
owners = st.sampled_from(OWNERS)


def tokens_of(letters):
    return [ord(letter) + n for letter in letters for n in range(PAGE)]


def blocks_in(parts):
    return [(part.owner, int(block)) for part in parts for block in part.blocks]


class IndexMachine(RuleBasedStateMachine):
    """`model`: {namespace: {prefix: {owner: block}}}, one entry for each indexed block."""

    contents = None

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.freed = []
        self.index = Index(PAGE, on_freed=self._freed, clock=lambda: self.now)
        self.mirror = Mirror(PAGE)
        self.mirror.apply(self.index.snapshot())
        self.model = {"": {}, "lora": {}}
        self.leases = []
        self.adopted = set()
        self.next_block = 0

    def _freed(self, addresses):
        self.freed += blocks_in([addresses])

    def _new(self, owner, count):
        self.next_block += count
        return Addresses(owner, range(self.next_block - count, self.next_block))

    def _known(self, namespace, letters):
        known = 0
        while known < len(letters) and letters[: known + 1] in self.model[namespace]:
            known += 1
        return known

    def _copies(self):
        """(copies of a block, whether another block hangs on it, its owner and number) for each copy."""
        for prefixes in self.model.values():
            for prefix, copies in prefixes.items():
                inner = any(len(p) > len(prefix) and p.startswith(prefix) for p in prefixes)
                for copy in copies.items():
                    yield copies, inner, copy

    def _leased(self):
        return {block for _, blocks in self.leases for block in blocks}

    def _take_model_from_index(self):
        """For calls whose choice is free: their rules are checked by the caller."""
        self.model = {namespace: {} for namespace in self.model}
        for (namespace, key), copies in self.contents(self.index.snapshot()).items():
            letters = "".join(map(chr, np.frombuffer(key, np.int32)[::PAGE]))
            self.model[namespace][letters] = dict(copies)

    @rule(namespace=namespaces, letters=sequences, head=st.integers(0, 6), cut=st.integers(0, 6), pair=owners,
          other=owners, again=st.booleans())  # fmt: skip
    def insert(self, namespace, letters, head, cut, pair, other, again):
        head, known = min(head, len(letters)), self._known(namespace, letters)
        given = len(letters) - head
        cut = min(cut, given)
        parts = [self._new(pair, cut), self._new(other, given - cut)]
        prefixes = self.model[namespace]
        if again:
            self._name_some_again(prefixes, letters, head, parts)
        if known < head:
            with pytest.raises(ValueError, match=f"{head - known} blocks before"):
                self.index.insert(namespace, tokens_of(letters), parts)
            return
        adopted, returned = [], []
        for n, (owner, block) in enumerate(blocks_in(parts), start=head + 1):
            copies = prefixes.setdefault(letters[:n], {})
            if owner not in copies:
                copies[owner] = block
                adopted.append((owner, block))
            elif copies[owner] != block:
                returned.append((owner, block))
        inserted = self.index.insert(namespace, [*tokens_of(letters), 1], parts)
        assert blocks_in(inserted.adopted) == adopted
        assert blocks_in(inserted.returned) == returned
        self.adopted.update(adopted)

    def _name_some_again(self, prefixes, letters, head, parts):
        n = head
        for part in parts:
            for at in range(0, len(part)):
                held = prefixes.get(letters[: n + at + 1], {}).get(part.owner)
                if held is not None and at % 2 == 0:
                    part.blocks[at] = held
            n += len(part)

    @rule(namespace=namespaces, letters=sequences, lease=st.none() | st.integers(1, 20))
    def match(self, namespace, letters, lease):
        match = self.index.match(namespace, [*tokens_of(letters), 1], lease_s=lease)
        known = self._known(namespace, letters)
        assert (match.blocks, match.tokens) == (known, known * PAGE)
        found = blocks_in(match.addresses)
        assert len(found) == known
        for n, (owner, block) in enumerate(found, start=1):
            assert self.model[namespace][letters[:n]][owner] == block
        assert (match.lease is None) == (lease is None or not known)
        if match.lease is not None:
            self.leases.append((match.lease, found))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data):
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.release()

    @rule(duration_s=st.integers(1, 15))
    def wait(self, duration_s):
        self.now += duration_s
        overdue = [lease for lease, _ in self.leases if lease.deadline <= self.now]
        self.leases = [(lease, blocks) for lease, blocks in self.leases if lease not in overdue]
        assert self.index.expire_leases() == len(overdue)

    @rule(namespace=namespaces, letters=sequences.filter(bool))
    def delete(self, namespace, letters):
        prefixes = self.model[namespace]
        others = [p for p in prefixes if not p.startswith(letters) and not letters.startswith(p)]
        gone = {p for p in prefixes if p.startswith(letters)}
        gone |= {p for p in prefixes if letters.startswith(p) and not any(o.startswith(p) for o in others)}
        assert self.index.delete(namespace, tokens_of(letters)) == len(gone)
        for prefix in gone:
            del prefixes[prefix]

    @rule(owner=owners, blocks=st.integers(1, 8))
    def evict(self, owner, blocks):
        before = {copy for *_, copy in self._copies()}
        evicted = self.index.evict(owner, blocks)
        self._take_model_from_index()
        gone = before - {copy for *_, copy in self._copies()}
        assert len(gone) == evicted <= blocks
        assert {copy[0] for copy in gone} <= {owner}
        assert gone.isdisjoint(self._leased())
        if evicted < blocks and not self.leases:
            assert not any(
                copy[0] == owner and (len(copies) > 1 or not inner) for copies, inner, copy in self._copies()
            )

    @rule(owner=owners, into=owners, blocks=st.integers(1, 8), use=st.integers(0, 8))
    def swap(self, owner, into, blocks, use):
        victims = self.index.victims(owner, blocks)
        named = [copy for victim in victims for copy in blocks_in([victim.addresses])]
        held = {copy for *_, copy in self._copies() if copy[0] == owner}
        assert set(named) <= held - self._leased()
        assert len(named) == (min(blocks, len(held)) if not self.leases else len(named)) <= blocks
        for victim in victims[:use]:
            new = self._new(into, len(victim.addresses))
            if self.index.replace(victim, new):
                moved = dict(zip(blocks_in([victim.addresses]), blocks_in([new]), strict=True))
                self._move(moved)
                self.adopted.update(moved.values())

    @rule(owner=owners, into=owners, data=st.data(), keep=st.booleans())
    def swap_named(self, owner, into, data, keep):
        held = [copy[1] for *_, copy in self._copies() if copy[0] == owner]
        asked = data.draw(st.lists(st.sampled_from(held), unique=True, max_size=5)) if held else []
        if not asked:
            return
        holdings = self.index.holdings(Addresses(owner, asked))
        assert [n for part in holdings for _, n in blocks_in([part.addresses])] == asked
        for holding in holdings:
            new = self._new(into, len(holding.addresses))
            swap = self.index.add_copy if keep else self.index.replace
            if swap(holding, new):
                moved = dict(zip(blocks_in([holding.addresses]), blocks_in([new]), strict=True))
                self._move(moved, keep=keep)
                self.adopted.update(moved.values())

    def _move(self, moved, keep=False):
        for prefixes in self.model.values():
            for copies in prefixes.values():
                for owner, block in list(copies.items()):
                    if (owner, block) in moved:
                        if not keep:
                            del copies[owner]
                        new_owner, new_block = moved[owner, block]
                        assert new_owner not in copies
                        copies[new_owner] = new_block

    @rule(instance=st.sampled_from("ab"), keep=st.sampled_from([None, 1, 2]))
    def drop_owners(self, instance, keep):
        gone = 0
        for namespace, prefixes in self.model.items():
            for copies in prefixes.values():
                for owner in list(copies):
                    if owner.instance == instance and owner.incarnation != keep:
                        del copies[owner]
                        gone += 1
            lost = [p for p, copies in prefixes.items() if not copies]
            self.model[namespace] = {
                p: copies for p, copies in prefixes.items() if not any(p.startswith(q) for q in lost)
            }
        assert self.index.drop_owners(instance, keep) == gone

    @rule(namespace=st.none() | namespaces)
    def clear(self, namespace):
        self.index.clear(namespace)
        for name in self.model if namespace is None else [namespace]:
            self.model[name] = {}

    @invariant()
    def the_index_holds_what_the_model_holds_and_so_does_the_mirror(self):
        self.index.check_integrity()
        held = self.contents(self.index.snapshot())
        assert held == {
            (namespace, np.array(tokens_of(prefix), "<i4").tobytes()): copies
            for namespace, prefixes in self.model.items()
            for prefix, copies in prefixes.items()
        }
        for event in self.index.events_since(self.mirror.seq):
            self.mirror.apply(event)
        mirrored = {}
        for namespace, nodes in self.mirror.tree.namespaces():
            for node in nodes:
                above, prefix = node.parent, b""
                while above is not None:
                    prefix, above = above.key + prefix, above.parent
                for n in range(node.blocks):
                    prefix += node.key[n * PAGE * 4 : (n + 1) * PAGE * 4]
                    mirrored[namespace, prefix] = {
                        holder.owner: int(np.frombuffer(copy, np.int32)[n])
                        for holder, copy in node.copies.items()
                    }
        assert mirrored == held

    @invariant()
    def every_adopted_block_is_published_or_freed_once_or_waits_for_a_lease(self):
        published = {copy for *_, copy in self._copies()}
        freed = set(self.freed)
        assert len(freed) == len(self.freed)
        assert freed.isdisjoint(published | self._leased())
        waiting = self.adopted - published - freed
        assert freed <= self.adopted
        assert not waiting or self.leases
        assert self.index.leases == len(self.leases)


def test_any_sequence_of_calls_agrees_with_the_model(contents):
    machine = type("Machine", (IndexMachine,), {"contents": staticmethod(contents)})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
