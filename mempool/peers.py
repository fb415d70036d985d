"""The other instances that this one knows."""

import threading
from collections.abc import Mapping

from mempool.address import Addresses
from mempool.errors import PeerDied, StaleAddress
from mempool.membership.messages import InstanceInfo, MemberStatus


class PeerDirectory:
    """The instances that the membership reports, and those that were introduced by hand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._introduced: dict[str, MemberStatus] = {}
        self._members: Mapping[str, MemberStatus] = {}

    def introduce(self, info: InstanceInfo) -> None:
        with self._lock:
            self._introduced[info.instance] = MemberStatus(info)

    def set_members(self, members: Mapping[str, MemberStatus]) -> None:
        """The instances that the membership knows now. The mapping is kept, not copied."""
        self._members = members

    def all(self) -> dict[str, InstanceInfo]:
        """The instances that `get` returns, by name."""
        standings = {**self._introduced, **self._members}
        return {name: standing.info for name, standing in standings.items() if not standing.suspected}

    def get(self, instance: str) -> InstanceInfo:
        """Raises PeerDied for an unknown or a silent instance."""
        standing = self._members.get(instance) or self._introduced.get(instance)
        if standing is None:
            raise PeerDied(instance, "not known, or not any more")
        if standing.suspected:
            raise PeerDied(instance, "silent: it gets no new work until it is heard again")
        return standing.info

    def owner_of(self, addresses: Addresses) -> InstanceInfo:
        """Raises StaleAddress for addresses of an incarnation that is no more, and what `get` raises."""
        info = self.get(addresses.owner.instance)
        if info.incarnation != addresses.owner.incarnation:
            raise StaleAddress(addresses.owner, f"no more: the present incarnation is {info.incarnation}")
        return info
