"""The registry: tells instances of each other."""

import logging
import threading
import time
from collections.abc import Iterable

import zmq

from mempool.errors import FrameError
from mempool.guard import LoopGuard
from mempool.membership.connections import Connections
from mempool.membership.messages import (
    MAX_JOIN_BYTES,
    PAGE_INFOS,
    Change,
    ChangeKind,
    ChangeNotice,
    Heartbeat,
    HeartbeatAck,
    InstanceInfo,
    Join,
    Leave,
    MembershipSnapshot,
    Reason,
    Refusal,
    ToMember,
    decode_to_registry,
    encode,
    new_incarnation,
)
from mempool.membership.roll import JoinRefused, MembershipTable
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.sockets import Wakeup
from mempool.speaker import speaker_of

logger = logging.getLogger(__name__)

SUSPICION_SECONDS = 2.0
DEATH_SECONDS = 10.0
MAX_MEMBERS = 1024

_DOUBT_MILLISECONDS = 10
# As many as one process has when its list names this registry by several addresses; the oldest gives way.
_CONNECTIONS_EACH = 8
# So that a flood does not keep it from looking at the clock; a turn ends with its time too.
_MESSAGES_A_TURN = 1000


class MembershipRegistry:
    """A registry, on a thread of its own until `close`. Instances connect to `endpoint`.

    The first instance that joins fixes layout and namespace, until no instance is alive any more. An instance
    is suspected after `suspicion_s` seconds of silence, and dead after `death_s`, or at once when its
    connection closes. What a connection says counts for the member that it joined as, and for no other.
    `access` says who is heard. `bad_frames` counts messages that break the protocol, `refusals` those that
    are not their sender's to say.

    Raises:
        ValueError: The settings contradict each other.
        MemPoolError: `url` cannot be listened at.
    """

    def __init__(
        self,
        url: str,
        *,
        suspicion_s: float = SUSPICION_SECONDS,
        death_s: float = DEATH_SECONDS,
        max_members: int = MAX_MEMBERS,
        access: ClusterAccess = LOOPBACK_ONLY,
    ) -> None:
        self.bad_frames = 0
        self.refusals = 0
        self._guard = LoopGuard("the registry")
        self._roll = MembershipTable(
            suspicion_s=suspicion_s, death_s=death_s, max_members=max_members, clock=time.monotonic
        )
        self._tick_milliseconds = max(1, int(min(suspicion_s / 8, 0.25) * 1000))
        self._epoch = new_incarnation()
        self._seq = 0
        self._identities: dict[bytes, tuple[str, int]] = {}
        # More than one where an instance has this registry twice in its list, or is about to lose the older.
        self._connections_of: dict[str, dict[bytes, None]] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._connections = Connections(
                self._context, url, access, max_frame_bytes=MAX_JOIN_BYTES, silence=2 * death_s
            )
        except BaseException:
            self._context.term()
            raise
        self.endpoint = self._connections.endpoint
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mempool-registry", daemon=True)
        self._thread.start()

    @property
    def errors(self) -> int:
        """Unexpected ones."""
        return self._guard.errors

    @property
    def refused(self) -> int:
        """Connections that were not let in."""
        return self._connections.refused

    def close(self) -> None:
        """Idempotent. Instances take it for a registry that is away, not for anyone's death."""
        if self._stopping:
            return
        self._stopping = True
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()
        self._connections.close()
        self._context.term()

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._connections.socket, self._connections.monitor, self._wakeup):
            poller.register(source, zmq.POLLIN)
        while not self._stopping:
            poller.poll(_DOUBT_MILLISECONDS if self._connections.in_doubt else self._tick_milliseconds)
            self._wakeup.clear()
            with self._guard:
                self._read()
            # Whatever was read: deaths are judged by the clock alone.
            with self._guard:
                self._judge()

    def _read(self) -> None:
        self._connections.hear_of_closed()
        until = time.monotonic() + self._tick_milliseconds / 1000
        for _ in range(_MESSAGES_A_TURN):
            frames = self._connections.receive()
            if frames is None:
                break
            with self._guard:
                self._handle(frames)
            if time.monotonic() > until:
                break
        for connection in self._connections.closed(encode(HeartbeatAck(self._seq))):
            self._announce(self._lose(connection))

    def _judge(self) -> None:
        changes = self._roll.tick()
        self._unbind_dead(changes)
        self._announce(changes)

    def _handle(self, frames: list[zmq.Frame]) -> None:
        try:
            if len(frames) != 2:
                raise FrameError(f"{len(frames) - 1} frames where one was expected")
            message = decode_to_registry(frames[1].buffer)
        except FrameError as error:
            self.bad_frames += 1
            logger.debug("dropped a frame: %s", error)
            return
        if isinstance(message, Join):
            self._join(frames, message)
        else:
            self._hear(frames[0].bytes, message)

    def _join(self, frames: list[zmq.Frame], join: Join) -> None:
        connection, info = frames[0].bytes, join.info
        try:
            changes = self._roll.join(info, join.process, speaker_of(frames[0]))
        except JoinRefused as error:
            self.refusals += 1
            # Who is refused asks again and again.
            logger.debug("%s", error)
            self._send([connection], error.refusal)
            return
        bound = self._identities.get(connection)
        if bound is not None and bound[0] != info.instance:
            # One connection speaks for one instance.
            changes = [*self._lose(connection), *changes]
        self._unbind_dead(changes)
        self._announce(changes)
        self._bind(frames, info)
        self._send_snapshot(connection)

    def _hear(self, connection: bytes, message: Heartbeat | Leave) -> None:
        identity = (message.instance, message.incarnation)
        changes = None
        if self._identities.get(connection) == identity:
            changes = self._roll.heard(*identity)
        if changes is None:
            self.refusals += 1
            self._send([connection], Refusal(message.incarnation, Reason.DEAD, "incarnation"))
        elif isinstance(message, Leave):
            self._unbind_all(message.instance)
            self._announce(self._roll.leave(*identity))
        else:
            self._announce(changes)
            self._send([connection], HeartbeatAck(self._seq))

    def _announce(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._seq += 1
            info = change.info
            logger.info("%s %s (incarnation %d)", info.instance, change.kind, info.incarnation)
            self._send(list(self._identities), ChangeNotice(self._seq, change))

    def _send_snapshot(self, connection: bytes) -> None:
        standings = self._roll.standings()
        for start in range(0, len(standings), PAGE_INFOS):
            page = tuple(standings[start : start + PAGE_INFOS])
            done = start + PAGE_INFOS >= len(standings)
            self._send([connection], MembershipSnapshot(self._epoch, self._seq, page, done))

    def _send(self, connections: Iterable[bytes], message: ToMember) -> None:
        frame = encode(message)
        for connection in connections:
            self._connections.send(connection, frame)

    def _lose(self, connection: bytes) -> list[Change]:
        instance, incarnation = self._unbind(connection)
        return [] if instance in self._connections_of else self._roll.lost(instance, incarnation)

    def _bind(self, frames: list[zmq.Frame], info: InstanceInfo) -> None:
        connection = frames[0].bytes
        self._identities[connection] = (info.instance, info.incarnation)
        bound = self._connections_of.setdefault(info.instance, {})
        bound[connection] = None
        if len(bound) > _CONNECTIONS_EACH:
            self._unbind(next(iter(bound)))
        self._connections.watch(frames)

    def _unbind(self, connection: bytes) -> tuple[str, int]:
        identity = self._identities.pop(connection)
        others = self._connections_of[identity[0]]
        others.pop(connection, None)
        if not others:
            del self._connections_of[identity[0]]
        self._connections.forget(connection)
        return identity

    def _unbind_dead(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.kind is ChangeKind.DIED:
                self._unbind_all(change.info.instance)

    def _unbind_all(self, instance: str) -> None:
        for connection in list(self._connections_of.get(instance, ())):
            self._unbind(connection)
