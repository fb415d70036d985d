"""Two MemPools under random calls, stalls, deaths, fences. --full and `EXAMPLES=1000` look longer."""

import os

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from local_calls import SECONDS, names
from remote_calls import RemoteCalls

from mempool.address import Medium
from mempool.errors import LeaseExpired, PeerDied, StaleAddress, TransferError
from mempool.membership.messages import Change, ChangeKind, new_incarnation


class PoolMachine(RemoteCalls):
    """And what befalls them."""

    @precondition(lambda self: self.calm > 30)
    @rule(name=names, sees_it_first=st.booleans())
    def kill(self, name, sees_it_first):
        """Without goodbye; the other finds out by itself, or hears it from the membership."""
        side, other = self.sides[name], self._other(name)
        side.pool.close()
        if sees_it_first:
            with pytest.raises(PeerDied):
                other.pool.alloc_mem(1, Medium.DRAM, name, timeout_s=SECONDS)
        self._hears_of_death(side, other)
        self._forget(side, other)
        self._start(name)

    @precondition(lambda self: self.calm > 30)
    @rule(name=names, knows_it_first=st.booleans())
    def fence(self, name, knows_it_first):
        """The other took it for dead, and it begins anew."""
        side, other = self.sides[name], self._other(name)
        active, leases = side.addresses(sorted(side.active)), side.leases
        if knows_it_first:
            self._fence(side)
        self._hears_of_death(side, other)
        if not knows_it_first:
            self._fence(side)
        self._forget(side, other)
        self._announce(name)
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
        new = new_incarnation()
        side.pool._cluster._client.info = msgspec.structs.replace(side.pool.info, incarnation=new)
        side.pool._cluster.fenced(old, new)

    def _hears_of_death(self, side, other):
        other.pool._cluster._client.members = {}
        other.pool._cluster.changed(Change(ChangeKind.DIED, side.pool.info))

    def _forget(self, side, other):
        self.calm = 0
        for flight in list(self.flights):
            self._land(flight, fails=(TransferError,))
        other.held, other.pointed_at = {}, set()
        side.forget()
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


def test_any_sequence_of_calls_keeps_every_block_with_its_bytes(make_sides, request):
    usual = 100 if request.config.getoption("--full") else 30
    machine = type("Machine", (PoolMachine,), {"make_sides": staticmethod(make_sides)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", usual)),
            derandomize="EXAMPLES" not in os.environ,
            stateful_step_count=80,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
