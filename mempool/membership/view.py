"""Which instances are alive, by what several registries say. Knows no sockets."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mempool.membership.fences import Fences
from mempool.membership.messages import Change, ChangeKind, InstanceInfo, MemberStatus

_ENDS = (ChangeKind.DIED, ChangeKind.LEFT)
# Of several registries the first of these that one of them says holds.
_ORDER = (ChangeKind.JOINED, ChangeKind.SUSPECTED, ChangeKind.LEFT, ChangeKind.DIED)


@dataclass(slots=True)
class _Report:
    """`kind`: one of _ORDER. `remembered`: from before the registry lost its memory."""

    info: InstanceInfo
    kind: ChangeKind
    remembered: bool = False


@dataclass(slots=True)
class _Registry:
    epoch: int = 0
    connected: bool = False
    forgets_at: float | None = None
    sayings: dict[str, _Report] = field(default_factory=dict)


class MembershipView:
    """All instances but `own`: of each one incarnation. An incarnation that ended never comes back.

    One is alive while any connected registry says so, and ends when all of them that knew it say so. Until
    then no other incarnation takes its place. What a registry said is kept while the connection to it is
    lost, and after that, should it come back with an empty memory, for another `grace_s` seconds, in which
    the instances register anew. It counts only where no connected registry knows better.

    Every method returns the changes that it makes, in order.
    """

    def __init__(
        self, own: str, registries: Iterable[str], *, grace_s: float, clock: Callable[[], float]
    ) -> None:
        self._own = own
        self._grace_s = grace_s
        self._clock = clock
        self._registries = {name: _Registry() for name in registries}
        self._members: dict[str, MemberStatus] = {}
        self._fences = Fences()

    @property
    def members(self) -> dict[str, MemberStatus]:
        return dict(self._members)

    def snapshot(self, name: str, epoch: int, standings: Iterable[MemberStatus]) -> list[Change]:
        """All that the registry knows, on a new connection or after a gap on an old one."""
        registry = self._registries[name]
        restarted = registry.epoch not in (0, epoch)
        registry.epoch, registry.connected = epoch, True
        before, registry.sayings = registry.sayings, {}
        for standing in standings:
            if not self._ended(standing.info):
                kind = ChangeKind.SUSPECTED if standing.suspected else ChangeKind.JOINED
                registry.sayings[standing.info.instance] = _Report(standing.info, kind)
        for instance, saying in before.items():
            if instance not in registry.sayings and saying.kind not in _ENDS:
                kept = _Report(saying.info, saying.kind, remembered=True)
                # A registry that lost nothing and does not name it any more has seen it die.
                lost = saying.remembered or restarted
                registry.sayings[instance] = kept if lost else _Report(saying.info, ChangeKind.DIED)
        if restarted:
            registry.forgets_at = self._clock() + self._grace_s
        return self._weigh({**before, **registry.sayings})

    def change(self, name: str, change: Change) -> list[Change]:
        if self._ended(change.info):
            return []
        kind = ChangeKind.JOINED if change.kind is ChangeKind.RECOVERED else change.kind
        sayings = self._registries[name].sayings
        known = sayings.get(change.info.instance)
        if known is None or known.info.incarnation == change.info.incarnation or kind not in _ENDS:
            sayings[change.info.instance] = _Report(change.info, kind)
        return self._weigh([change.info.instance])

    def set_connected(self, name: str, connected: bool) -> list[Change]:
        """Also for a registry that is silent, or speaks again, on a connection that stands."""
        registry = self._registries[name]
        if registry.connected == connected:
            return []
        registry.connected = connected
        return self._weigh(list(registry.sayings))

    def tick(self) -> list[Change]:
        changes: list[Change] = []
        for registry in self._registries.values():
            if registry.forgets_at is None or not registry.connected or self._clock() < registry.forgets_at:
                continue
            registry.forgets_at = None
            gone = [instance for instance, saying in registry.sayings.items() if saying.remembered]
            for instance in gone:
                del registry.sayings[instance]
            changes += self._weigh(gone)
        return changes

    def _weigh(self, instances: Iterable[str]) -> list[Change]:
        return [
            change for instance in instances if instance != self._own for change in self._weigh_one(instance)
        ]

    def _weigh_one(self, instance: str) -> list[Change]:
        changes: list[Change] = []
        saying = self._decisive(instance)
        present = self._members.get(instance)
        if present is not None and (saying is None or saying.info.incarnation != present.info.incarnation):
            changes += self._end(present.info, ChangeKind.DIED)
            present, saying = None, self._decisive(instance)
        if saying is None:
            return changes
        if saying.kind in _ENDS:
            if present is not None:
                return self._end(present.info, saying.kind)
            self._forget(saying.info)
            return changes
        suspected = saying.kind is ChangeKind.SUSPECTED
        if present is None:
            changes.append(Change(ChangeKind.JOINED, saying.info))
        if suspected != (present is not None and present.suspected):
            changes.append(Change(ChangeKind.SUSPECTED if suspected else ChangeKind.RECOVERED, saying.info))
        self._members[instance] = MemberStatus(saying.info, suspected)
        return changes

    def _decisive(self, instance: str) -> _Report | None:
        """What holds of the incarnation that is a member, or of the one that most registries say is alive."""
        heard = [
            (registry, registry.sayings[instance])
            for registry in self._registries.values()
            if instance in registry.sayings
        ]
        firm = [saying for registry, saying in heard if registry.connected and not saying.remembered]
        weighed = firm or [saying for _, saying in heard]
        present = self._members.get(instance)
        alive = Counter(saying.info.incarnation for saying in weighed if saying.kind not in _ENDS)
        if alive and (present is None or present.info.incarnation not in alive):
            # Any order will do where as many say the one as the other, if it is the same everywhere.
            chosen = max(alive, key=lambda incarnation: (alive[incarnation], incarnation))
        else:
            chosen = 0 if present is None else present.info.incarnation
        about = [saying for saying in weighed if saying.info.incarnation == chosen] or weighed
        return min(about, key=lambda saying: _ORDER.index(saying.kind), default=None)

    def _ended(self, info: InstanceInfo) -> bool:
        return self._fences.has(info.instance, info.incarnation)

    def _end(self, info: InstanceInfo, kind: ChangeKind) -> list[Change]:
        del self._members[info.instance]
        self._forget(info)
        return [Change(kind, info)]

    def _forget(self, info: InstanceInfo) -> None:
        self._fences.add(info.instance, info.incarnation)
        for registry in self._registries.values():
            saying = registry.sayings.get(info.instance)
            if saying is not None and saying.info.incarnation == info.incarnation:
                del registry.sayings[info.instance]
