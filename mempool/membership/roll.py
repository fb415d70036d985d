"""Which instances are alive, as one registry sees it. Knows no sockets."""

from collections.abc import Callable

from mempool.errors import LayoutMismatch
from mempool.membership.fences import Fences
from mempool.membership.messages import Change, ChangeKind, InstanceInfo, MemberStatus, Reason, Refusal

_LONGEST_SECONDS = 86400


class JoinRefused(Exception):
    def __init__(
        self, info: InstanceInfo, reason: Reason, field: str, registry: object, joiner: object
    ) -> None:
        self.refusal = Refusal(info.incarnation, reason, field, f"{registry}"[:512], f"{joiner}"[:512])
        super().__init__(f"{info.instance} is refused for {reason}: {field} {registry} here, {joiner} there")


class _Entry:
    def __init__(self, info: InstanceInfo, heard: float) -> None:
        self.info = info
        self.heard = heard
        self.suspected = False


class MembershipTable:
    """Every method returns the changes that it makes, in order.

    `suspicion_s`, `death_s`: seconds of silence. `tick` has to be called much more often than that.
    """

    def __init__(
        self, *, suspicion_s: float, death_s: float, max_members: int, clock: Callable[[], float]
    ) -> None:
        if not 0 < suspicion_s < death_s <= _LONGEST_SECONDS:
            raise ValueError(
                f"silence must be suspected before it is death, and that within {_LONGEST_SECONDS} s: "
                f"{suspicion_s:g} s and {death_s:g} s were given"
            )
        if max_members < 1:
            raise ValueError(f"a registry needs room for one member, {max_members} were given")
        self._suspicion_s = suspicion_s
        self._death_s = death_s
        self._max_members = max_members
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._fences = Fences()
        self._ticked = clock()

    def standings(self) -> list[MemberStatus]:
        return [MemberStatus(entry.info, entry.suspected) for entry in self._entries.values()]

    def join(self, info: InstanceInfo, previous: int) -> list[Change]:
        """Raises Refused, with nothing changed.

        `previous`: the incarnation under which the same process was declared dead, or 0.
        """
        present = self._entries.get(info.instance)
        if present is not None and present.info.incarnation == info.incarnation:
            return self.heard(info.instance, info.incarnation) or []
        self._require_newest(info, previous)
        self._require_same(info)
        if present is None and len(self._entries) >= self._max_members:
            raise JoinRefused(info, Reason.FULL, "members", self._max_members, len(self._entries) + 1)
        changes = self._end(present, ChangeKind.DIED) if present is not None else []
        self._entries[info.instance] = _Entry(info, self._clock())
        return [*changes, Change(ChangeKind.JOINED, info)]

    def heard(self, instance: str, incarnation: int) -> list[Change] | None:
        """A sign of life; None from one that is not alive here."""
        entry = self._find(instance, incarnation)
        if entry is None:
            return None
        entry.heard = self._clock()
        if not entry.suspected:
            return []
        entry.suspected = False
        return [Change(ChangeKind.RECOVERED, entry.info)]

    def leave(self, instance: str, incarnation: int) -> list[Change]:
        entry = self._find(instance, incarnation)
        return [] if entry is None else self._end(entry, ChangeKind.LEFT)

    def lost(self, instance: str, incarnation: int) -> list[Change]:
        """Its connection closed."""
        entry = self._find(instance, incarnation)
        return [] if entry is None else self._end(entry, ChangeKind.DIED)

    def newest(self, instance: str) -> int:
        """The newest incarnation ever seen, or 0."""
        entry = self._entries.get(instance)
        return self._fences.of(instance) if entry is None else entry.info.incarnation

    def tick(self) -> list[Change]:
        now, before = self._clock(), self._ticked
        self._ticked = now
        if now - before > self._suspicion_s / 2:
            # This registry stood still, and cannot know who else was silent meanwhile.
            for entry in self._entries.values():
                entry.heard = min(now, entry.heard + now - before)
        return [change for entry in list(self._entries.values()) for change in self._judge(entry, now)]

    def _judge(self, entry: _Entry, now: float) -> list[Change]:
        silence = now - entry.heard
        if silence > self._death_s:
            return self._end(entry, ChangeKind.DIED)
        if silence > self._suspicion_s and not entry.suspected:
            entry.suspected = True
            return [Change(ChangeKind.SUSPECTED, entry.info)]
        return []

    def _find(self, instance: str, incarnation: int) -> _Entry | None:
        entry = self._entries.get(instance)
        return entry if entry is not None and entry.info.incarnation == incarnation else None

    def _end(self, entry: _Entry, kind: ChangeKind) -> list[Change]:
        del self._entries[entry.info.instance]
        self._fences.raise_to(entry.info.instance, entry.info.incarnation)
        return [Change(kind, entry.info)]

    def _require_newest(self, info: InstanceInfo, previous: int) -> None:
        newest = self.newest(info.instance)
        if newest == info.incarnation:
            raise JoinRefused(info, Reason.DEAD, "incarnation", newest, info.incarnation)
        # One that was dead for a while may have been replaced: its new number does not make it the newer.
        if newest > min(previous or info.incarnation, info.incarnation):
            raise JoinRefused(info, Reason.SUPERSEDED, "incarnation", newest, info.incarnation)

    def _require_same(self, info: InstanceInfo) -> None:
        others = (entry.info for entry in self._entries.values() if entry.info.instance != info.instance)
        first = next(others, None)
        if first is None:
            return
        try:
            first.layout.require_same(info.layout)
        except LayoutMismatch as error:
            values = (getattr(layout, error.field) for layout in (first.layout, info.layout))
            raise JoinRefused(info, Reason.LAYOUT, error.field, *values) from None
        for field in sorted({*first.namespace, *info.namespace}):
            here, there = (each.namespace.get(field, "nothing") for each in (first, info))
            if here != there:
                raise JoinRefused(info, Reason.NAMESPACE, field, here, there)
