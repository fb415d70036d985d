"""The machine's calls between its two pools."""

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import rule
from local_calls import SECONDS, Flight, LocalCalls, chances, media, names, sizes
from pool_model import keys_of, kv_of, tokens_of
from waiting import until

from mempool.address import Addresses, Medium
from mempool.errors import BadAddress, DeadlinePassed, OutOfBlocks, Refused, StaleAddress
from mempool.flags import TransferFlags, TransferMode

flag_sets = st.builds(TransferFlags, medium=media, mode=st.sampled_from(TransferMode), move=st.booleans())


class RemoteCalls(LocalCalls):
    @rule(name=names, medium=media, size=sizes)
    def remote_alloc(self, name, medium, size):
        side, other = self.sides[name], self._other(name)
        try:
            addresses = side.pool.alloc_mem(size, medium, other.name, timeout_s=SECONDS)
        except OutOfBlocks:
            assert size > other.pool.counts(medium).free
            return
        assert addresses.owner == other.owner(medium)
        rows = other.rows(medium)
        other.held.update({key: rows[key[1]] for key in self._given(other, addresses)})

    @rule(name=names, chance=chances)
    def remote_free(self, name, chance):
        side, other = self.sides[name], self._other(name)
        named = self._named(other)
        keys = self._some(chance, set(other.held) - other.pointed_at)
        for key, address in zip(keys, other.addresses(keys), strict=True):
            if key in named:
                with pytest.raises(BadAddress):
                    side.pool.free_mem(address, timeout_s=SECONDS)
                continue
            side.pool.free_mem(address, timeout_s=SECONDS)
            del other.held[key]
            with pytest.raises(BadAddress):
                side.pool.free_mem(address, timeout_s=SECONDS)
            with pytest.raises(StaleAddress):
                side.pool.free_mem(Addresses(address.owner._replace(incarnation=1), address.blocks))

    @rule(name=names, chance=chances, flags=flag_sets, to_named=st.booleans(), kind=st.sampled_from("alp"),
          stalls=st.booleans())  # fmt: skip
    def transfer(self, name, chance, flags, to_named, kind, stalls):
        """`kind`: of active, leased, or published and not leased blocks."""
        side, other = self.sides[name], self._other(name)
        if stalls:
            other.gate.clear()
        leased = chance.choice(side.leases)[1] if side.leases else {}
        blocks = {"a": side.active, "l": leased, "p": side.historical()}[kind]
        keys = self._some(chance, blocks, 6)
        if not keys:
            return
        self._send(side, other, {key: blocks[key] for key in keys}, flags, chance if to_named else None)

    @rule(name=names, count=st.integers(1, 6), flags=flag_sets, to_named=st.booleans(), stalls=st.booleans(),
          chance=chances)  # fmt: skip
    def transfer_with_insert(self, name, count, flags, to_named, stalls, chance):
        side, other = self.sides[name], self._other(name)
        if stalls:
            other.gate.clear()
        namespace, letters = self._published(side, chance)
        matched = side.pool.match(tokens_of(letters), namespace=namespace)
        if not matched.blocks or any(part.owner.instance != name for part in matched.addresses):
            matched.release()
            return
        keys = keys_of(matched.addresses)[-count:]
        blocks = {
            key: kv_of(namespace, letters[:n])
            for n, key in enumerate(keys, start=len(letters) - len(keys) + 1)
        }
        self._send(side, other, blocks, flags, chance if to_named else None, (namespace, letters), matched)

    @rule(name=names, chance=chances, flags=flag_sets)
    def transfer_that_is_overdue(self, name, chance, flags):
        side, other = self.sides[name], self._other(name)
        keys = self._some(chance, self._free_to_use(side))
        other.gate.clear()
        if not keys:
            return
        with pytest.raises((DeadlinePassed, OutOfBlocks)):
            side.pool.transfer(other.name, side.addresses(keys), None, flags, timeout_s=0.004)
        for key in keys:
            side.write(key, self._content())
        # The offer has been answered once this is: one answers what it is asked in turn.
        side.pool.free_mem(Addresses(other.owner(Medium.DRAM), []), timeout_s=SECONDS)
        until(lambda: other.pool.counters()["incoming"] == self._incoming(other), "its end there")

    def _send(self, side, other, blocks, flags, chance, tokens=None, lease=None):
        named = []
        if chance is not None:
            medium = chance.choice(list(Medium))
            room = [
                k for k in sorted(set(other.held) - other.pointed_at - self._named(other)) if k[0] is medium
            ]
            if len(room) < len(blocks):
                chance = None
            else:
                named = room[: len(blocks)]
        target = None if chance is None else Addresses(other.owner(medium), [block for _, block in named])
        flight = Flight(side, other, blocks, named, tokens, flags, lease)
        if not named:
            flight.likely = (OutOfBlocks,)
        if tokens and (not other.gate.is_set() or other.known(*tokens) < len(tokens[1]) - len(blocks)):
            flight.likely += (Refused,)
        source, how = side.addresses(blocks), (target, flags, b"cookie")
        if tokens is None:
            flight.future = side.pool.start.transfer(other.name, source, *how, timeout_s=SECONDS)
        else:
            flight.future = side.pool.start.transfer_with_insert(
                other.name,
                tokens_of(tokens[1]),
                source,
                *how,
                namespace=tokens[0],
                timeout_s=SECONDS,
            )
        self.flights.append(flight)
        if other.gate.is_set():
            self._land(flight)
        else:
            # Admitted or refused, as far as it gets.
            until(
                lambda: flight.future.done() or other.pool.counters()["incoming"] >= self._incoming(other),
                "an answer",
            )
            if flight.future.done():
                self._land(flight)

    def _incoming(self, side):
        return sum(flight.target is side and not flight.future.done() for flight in self.flights)

    def _land(self, flight, *, fails=()):
        try:
            landed = flight.future.result(timeout=SECONDS)
        except (*fails, *flight.likely):
            pass
        else:
            assert not fails
            self._landed(flight, landed)
            if flight.flags.move:
                self._moved(flight)
        finally:
            self.flights.remove(flight)
            if flight.lease is not None:
                flight.lease.release()

    def _landed(self, flight, landed):
        other, contents = flight.target, list(flight.blocks.values())
        keys = keys_of([landed.addresses])
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

    @rule(name=names, medium=media, chance=chances)
    def publish_a_copy_at_the_other(self, name, medium, chance):
        side, other = self.sides[name], self._other(name)
        own = {prefix: copies for prefix, copies in side.published().items() if len(copies) == 1}
        if not own or not other.gate.is_set():
            return
        prefix = chance.choice(sorted(own))
        (owner, block), content = *own[prefix].items(), kv_of(*prefix)
        if owner.instance == name:
            self._send(side, other, {(owner.medium, block): content}, TransferFlags(medium=medium), None)
            for key in [key for key, held in other.held.items() if held == content][:1]:
                tokens, (address,) = tokens_of(prefix[1]), other.addresses([key])
                if not side.pool.insert(tokens, address, namespace=prefix[0]):
                    other.pointed_at.add(key)
