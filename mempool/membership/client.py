"""An instance's place in the cluster, on one thread of its own."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import zmq

from mempool.endpoints import check_endpoint
from mempool.errors import LayoutMismatch, MemPoolError, NamespaceMismatch
from mempool.guard import LoopGuard
from mempool.membership.errors import JoinFailed, Superseded
from mempool.membership.link import MAX_MEMBERS, LinkLost, RegistryLink
from mempool.membership.messages import (
    Change,
    ChangeNotice,
    Heartbeat,
    InstanceInfo,
    Join,
    Leave,
    MembershipSnapshot,
    MemberStatus,
    Reason,
    Refusal,
    ToMember,
    new_incarnation,
)
from mempool.membership.view import MembershipView
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.sockets import Wakeup

logger = logging.getLogger(__name__)

# Longer than a registry takes to see that an earlier process of the same name is dead.
JOIN_SECONDS = 15.0
_SILENT_BEATS = 4
# What may be otherwise when the registry is asked again.
_PASSING = (Reason.FULL, Reason.TAKEN)


class MembershipClient:
    """Joins every registry of a list, each by itself, and stays there. A registry that is away is tried for
    ever.

    Callbacks run on the client's thread, one at a time. A slow callback delays the heartbeat. `on_change`
    gets each change of another instance. `on_fenced(old, new)`: this instance was declared dead under the
    incarnation `old`. The callback drops everything of that incarnation; on return the instance joins as
    `new`. If it raises, the instance leaves. `on_stopped`: the instance has left for good, because another
    process of the cluster has taken its place while it was silent. That takes a key: where the cluster has
    none, the one that came later stays out, and asks again, until the other is dead.

    `heartbeat_s` has to be far below the registries' suspicion. `grace_s`: for how long the client keeps what
    a registry said before it came back without memory; no less than the registry's death time. `access`: as
    whom it connects.
    """

    def __init__(
        self,
        info: InstanceInfo,
        registries: Sequence[str],
        *,
        on_change: Callable[[Change], None],
        on_fenced: Callable[[int, int], None],
        on_stopped: Callable[[MemPoolError], None],
        heartbeat_s: float = 0.5,
        grace_s: float = 10.0,
        access: ClusterAccess = LOOPBACK_ONLY,
    ) -> None:
        """Raises ValueError for endpoints or settings that make no sense."""
        if not registries or not (heartbeat_s > 0 and grace_s > 0):
            raise ValueError("a member needs a registry, a heartbeat and a grace above 0")
        for endpoint in registries:
            check_endpoint(endpoint)
        self.info = info
        self._on_change = on_change
        self._on_fenced = on_fenced
        self._on_stopped = on_stopped
        self._heartbeat_s = heartbeat_s
        names = list(dict.fromkeys(registries))
        self._view = MembershipView(info.instance, names, grace_s=grace_s, clock=time.monotonic)
        self._members: Mapping[str, MemberStatus] = {}
        self._process = secrets.token_bytes(16)
        self._beat_at = 0.0
        self._accepted = threading.Event()
        self._error: MemPoolError | None = None
        self._stopping = False
        self._guard = LoopGuard("the membership")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wakeup = Wakeup()
        self._poller = zmq.Poller()
        self._poller.register(self._wakeup, zmq.POLLIN)
        self._links = [RegistryLink(self._context, name, self._poller, access) for name in names]
        self._thread = threading.Thread(target=self._run, name="mempool-member", daemon=True)

    @property
    def members(self) -> Mapping[str, MemberStatus]:
        """Every other instance that is alive, as of now; it is not changed afterwards."""
        return self._members

    def join(self, seconds: float = JOIN_SECONDS) -> None:
        """Returns once a registry has taken this instance; once only. Where it raises, the member is closed.

        Raises LayoutMismatch, NamespaceMismatch, Superseded when a registry refuses before any accepts,
        JoinFailed when none accepts in time.
        """
        self._thread.start()
        in_time = self._accepted.wait(seconds)
        if in_time and self._error is None:
            return
        self.close()
        causes = "; ".join(f"{link.endpoint}: {link.why_not}" for link in self._links)
        raise self._error or JoinFailed(f"no registry took {self.info.instance} in {seconds:g} s ({causes})")

    def close(self) -> None:
        """Leaves, and says so to the others. Idempotent; not from a callback."""
        self._stopping = True
        if self._context.closed:
            return
        self._wakeup.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._wakeup.close()
        self._context.term()

    def _run(self) -> None:
        while not self._stopping:
            self._poller.poll(max(0, int((self._beat_at - time.monotonic()) * 1000) + 1))
            self._wakeup.clear()
            now = time.monotonic()
            for link in self._links:
                with self._guard:
                    self._serve(link, now)
            if now >= self._beat_at:
                self._beat_at = now + self._heartbeat_s
                with self._guard:
                    self._say(Heartbeat(self.info.instance, self.info.incarnation))
            with self._guard:
                self._report(self._view.tick())
        with self._guard:
            self._say(Leave(self.info.instance, self.info.incarnation))
        for link in self._links:
            link.close()

    def _serve(self, link: RegistryLink, now: float) -> None:
        try:
            messages = link.read(now)
            for message in messages:
                self._take_guarded(link, message)
        except LinkLost as error:
            logger.debug("%s: %s", link.endpoint, error)
            link.lose(now, str(error))
            self._report(self._view.set_connected(link.endpoint, False))
            return
        if link.connected and not link.joined and now >= link.join_at:
            link.join(Join(self.info, self._process), now)
        if link.connected and now - link.heard > _SILENT_BEATS * self._heartbeat_s:
            self._report(self._view.set_connected(link.endpoint, False))
        elif link.joined:
            self._report(self._view.set_connected(link.endpoint, True))

    def _take_guarded(self, link: RegistryLink, message: ToMember) -> None:
        """Raises LinkLost alone."""
        try:
            self._take(link, message)
        except LinkLost:
            raise
        except Exception as error:
            self._guard.report(error)

    def _take(self, link: RegistryLink, message: ToMember) -> None:
        if isinstance(message, Refusal):
            if message.incarnation == self.info.incarnation and not self._stopping:
                self._refused(link, message)
        elif isinstance(message, MembershipSnapshot):
            self._take_snapshot(link, message)
        elif not link.joined:
            return
        elif isinstance(message, ChangeNotice) and message.seq == link.seq + 1:
            if len(self._members) >= MAX_MEMBERS:
                raise LinkLost(f"more than {MAX_MEMBERS} members")
            link.advance()
            self._report(self._view.change(link.endpoint, message.change))
        elif message.seq > link.seq:
            # Something was lost on the way.
            link.rejoin()

    def _take_snapshot(self, link: RegistryLink, page: MembershipSnapshot) -> None:
        members = link.take_page(page)
        if members is not None:
            self._report(self._view.snapshot(link.endpoint, page.epoch, members))
            self._accepted.set()

    def _refused(self, link: RegistryLink, refusal: Refusal) -> None:
        error = _error(self.info, refusal)
        is_news = link.refuse(str(error))
        if refusal.reason is Reason.DEAD:
            self._fence()
        elif isinstance(error, Superseded):
            self._stop(error)
        elif refusal.reason not in _PASSING and not self._accepted.is_set():
            self._error = error
            self._stopping = True
            self._accepted.set()
        elif is_news:
            logger.warning("%s refuses %s: %s", link.endpoint, self.info.instance, error)

    def _fence(self) -> None:
        old, new = self.info.incarnation, new_incarnation()
        logger.warning("%s was declared dead, and joins anew as incarnation %d", self.info.instance, new)
        try:
            self._on_fenced(old, new)
        except Exception as error:
            logger.exception("incarnation %d cannot be given up", old)
            self._stop(JoinFailed(f"incarnation {old} of {self.info.instance} cannot be given up: {error}"))
            return
        self.info = msgspec.structs.replace(self.info, incarnation=new)
        for link in self._links:
            link.rejoin()

    def _stop(self, error: MemPoolError) -> None:
        self._stopping = True
        if self._accepted.is_set():
            _call(self._on_stopped, error)
        self._error = error
        self._accepted.set()

    def _say(self, message: Heartbeat | Leave) -> None:
        for link in self._links:
            if link.joined:
                link.send(message)

    def _report(self, changes: Sequence[Change]) -> None:
        if changes:
            self._members = self._view.members
        for change in changes:
            _call(self._on_change, change)


def _call(callback: Callable[[Any], None], argument: Any) -> None:
    try:
        callback(argument)
    except Exception:
        logger.exception("a change of the membership was not taken")


def _error(info: InstanceInfo, refusal: Refusal) -> MemPoolError:
    if refusal.reason is Reason.LAYOUT:
        return LayoutMismatch(refusal.field, refusal.joiner, refusal.registry)
    if refusal.reason is Reason.NAMESPACE:
        return NamespaceMismatch(refusal.field, refusal.joiner, refusal.registry)
    if refusal.reason is Reason.SUPERSEDED and refusal.registry.isdecimal():
        return Superseded(info.instance, info.incarnation, int(refusal.registry))
    if refusal.reason is Reason.TAKEN:
        return JoinFailed(
            f"another process is {info.instance}, as incarnation {refusal.registry}: stop it, or give this "
            "instance another name"
        )
    if refusal.reason is Reason.FOREIGN:
        return JoinFailed(f"this connection speaks for {refusal.registry!r}, not for {info.instance!r}")
    return JoinFailed(f"refused: {refusal.reason} {refusal.field} {refusal.registry}")
