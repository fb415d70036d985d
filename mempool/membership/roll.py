"""Which instances are alive, as one registry sees it. Knows no sockets."""

import secrets
from collections import Counter
from collections.abc import Callable

from mempool.errors import LayoutMismatch, NamespaceMismatch
from mempool.membership.fences import Fences
from mempool.membership.messages import Change, ChangeKind, InstanceInfo, MemberStatus, Reason, Refusal
from mempool.speaker import Speaker

_LONGEST_SECONDS = 86400


class JoinRefused(Exception):
    def __init__(
        self, info: InstanceInfo, reason: Reason, field: str, registry: object, joiner: object
    ) -> None:
        self.refusal = Refusal(info.incarnation, reason, field, f"{registry}"[:512], f"{joiner}"[:512])
        super().__init__(f"{info.instance} is refused for {reason}: {field} {registry} here, {joiner} there")


class _Entry:
    """`spoke`: whether it has given a sign of life since it joined."""

    def __init__(self, info: InstanceInfo, process: bytes, speaker: Speaker, heard: float) -> None:
        self.info = info
        self.process = process
        self.speaker = speaker
        self.heard = heard
        self.suspected = False
        self.spoke = False

    @property
    def mute(self) -> bool:
        """Whether it joined and was never heard again: it may be anybody's invention."""
        return self.suspected and not self.spoke

    def is_process(self, process: bytes) -> bool:
        return secrets.compare_digest(self.process, process)


class MembershipTable:
    """Every method returns the changes that it makes, in order.

    A name belongs to the process that holds it, for as long as that is alive. While it is silent, another
    process may take its place, if it has shown the cluster's key. No number that anyone claims counts for
    more than another.

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
        self._ended = Fences()
        # Processes with the key that held a name, as they came: all but the latest were replaced.
        self._holders = Fences()
        self._ticked = clock()

    def standings(self) -> list[MemberStatus]:
        return [MemberStatus(entry.info, entry.suspected) for entry in self._entries.values()]

    def join(self, info: InstanceInfo, process: bytes, speaker: Speaker) -> list[Change]:
        """`process`: the secret of the process. Raises JoinRefused, with nothing changed."""
        if not speaker.may_be(info.instance):
            raise JoinRefused(info, Reason.FOREIGN, "instance", speaker.name, info.instance)
        present = self._entries.get(info.instance)
        if present is not None and present.info.incarnation == info.incarnation:
            if present.is_process(process):
                return self._sign_of_life(present)
            raise self._taken(info, present)
        self._require_free(info, process, speaker, present)
        giving_way = self._giving_way(info, speaker, present)
        changes = [change for entry in giving_way for change in self._end(entry, ChangeKind.DIED)]
        self._entries[info.instance] = _Entry(info, process, speaker, self._clock())
        if speaker.name is not None:
            self._holders.add(info.instance, process)
        return [*changes, Change(ChangeKind.JOINED, info)]

    def heard(self, instance: str, incarnation: int) -> list[Change] | None:
        """A sign of life; None from one that is not alive here."""
        entry = self._find(instance, incarnation)
        if entry is None:
            return None
        entry.spoke = True
        return self._sign_of_life(entry)

    def leave(self, instance: str, incarnation: int) -> list[Change]:
        entry = self._find(instance, incarnation)
        return [] if entry is None else self._end(entry, ChangeKind.LEFT)

    def lost(self, instance: str, incarnation: int) -> list[Change]:
        """Its connection closed."""
        entry = self._find(instance, incarnation)
        return [] if entry is None else self._end(entry, ChangeKind.DIED)

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

    def _sign_of_life(self, entry: _Entry) -> list[Change]:
        entry.heard = self._clock()
        if not entry.suspected:
            return []
        entry.suspected = False
        return [Change(ChangeKind.RECOVERED, entry.info)]

    def _find(self, instance: str, incarnation: int) -> _Entry | None:
        entry = self._entries.get(instance)
        return entry if entry is not None and entry.info.incarnation == incarnation else None

    def _end(self, entry: _Entry, kind: ChangeKind) -> list[Change]:
        del self._entries[entry.info.instance]
        self._ended.add(entry.info.instance, entry.info.incarnation)
        return [Change(kind, entry.info)]

    def _require_free(
        self, info: InstanceInfo, process: bytes, speaker: Speaker, present: _Entry | None
    ) -> None:
        if self._ended.has(info.instance, info.incarnation):
            raise JoinRefused(info, Reason.DEAD, "incarnation", info.incarnation, info.incarnation)
        if self._holders.has(info.instance, process) and self._holders.latest(info.instance) != process:
            newer = 0 if present is None else present.info.incarnation
            raise JoinRefused(info, Reason.SUPERSEDED, "incarnation", newer, info.incarnation)
        if present is None or present.is_process(process):
            return
        if not present.suspected or speaker.name is None:
            raise self._taken(info, present)

    def _taken(self, info: InstanceInfo, present: _Entry) -> JoinRefused:
        return JoinRefused(info, Reason.TAKEN, "incarnation", present.info.incarnation, info.incarnation)

    def _giving_way(self, info: InstanceInfo, speaker: Speaker, present: _Entry | None) -> list[_Entry]:
        """Those whose places this one needs. Raises JoinRefused where somebody's is not to be had."""
        others = [entry for entry in self._entries.values() if entry is not present]
        mute = [entry for entry in others if entry.mute]
        self._require_same(info, [entry for entry in others if not entry.mute])
        # The inventions of a stranger fix no layout, and fill no registry.
        differing = [entry for entry in mute if _difference(entry.info, info) is not None]
        if present is not None:
            return [present, *differing]
        if differing or len(self._entries) < self._max_members:
            return differing
        crowding = mute or self._crowding(speaker)
        if not crowding:
            raise JoinRefused(info, Reason.FULL, "members", self._max_members, len(self._entries) + 1)
        return crowding[:1]

    def _crowding(self, speaker: Speaker) -> list[_Entry]:
        """The members of the host with the most, the youngest first, where it has more than its share."""
        counts = Counter(entry.speaker.host for entry in self._entries.values())
        host, most = counts.most_common(1)[0]
        if most < counts[speaker.host] + 2:
            return []
        return [entry for entry in reversed(self._entries.values()) if entry.speaker.host == host]

    def _require_same(self, info: InstanceInfo, others: list[_Entry]) -> None:
        difference = _difference(others[0].info, info) if others else None
        if difference is not None:
            raise JoinRefused(info, *difference)


def _difference(first: InstanceInfo, info: InstanceInfo) -> tuple[Reason, str, object, object] | None:
    """What keeps two instances from one registry: the reason, the field, and both values of it."""
    try:
        first.layout.require_same(info.layout)
    except LayoutMismatch as error:
        here, there = (getattr(layout, error.field) for layout in (first.layout, info.layout))
        return Reason.LAYOUT, error.field, here, there
    try:
        first.require_same_namespace(info)
    except NamespaceMismatch as error:
        digests = [each.namespace.get(error.field, "nothing") for each in (first, info)]
        return Reason.NAMESPACE, error.field, digests[0], digests[1]
    return None
