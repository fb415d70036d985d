"""What is kept and done for other instances, and how much of it is too much. Imports no torch."""

from collections import Counter
from collections.abc import Callable

from mempool.address import Medium, Owner
from mempool.config import PeerQuota
from mempool.errors import OutOfBlocks, Refused


class PeerLedger:
    """Counts blocks and transfers by instance. Used under the pool's lock.

    `total(medium)`: how many blocks there are. `refusals` counts requests that would have been too much.
    """

    def __init__(self, quota: PeerQuota, total: Callable[[Medium], int]) -> None:
        self.quota = quota
        self.refusals = 0
        self._total = total
        self._blocks: Counter[tuple[str, Medium]] = Counter()
        self._blocks_in_all: Counter[Medium] = Counter()
        self._transfers: Counter[str] = Counter()

    def require_blocks(self, instance: str, owner: Owner, blocks: int) -> None:
        """Raises OutOfBlocks where the instance cannot have so many more of this instance's `owner`."""
        medium, quota = owner.medium, self.quota
        each, in_all, total = self._blocks[instance, medium], self._blocks_in_all[medium], self._total(medium)
        if each + blocks > quota.share_each * total or in_all + blocks > quota.share * total:
            self.refusals += 1
            raise OutOfBlocks(
                owner,
                f"{blocks} blocks asked; of {total}, {each} are kept for {instance}, {in_all} for all: "
                f"they may have {quota.share_each:.0%} each and {quota.share:.0%} together",
            )

    def require_transfer(self, instance: str) -> None:
        """Raises Refused where there are too many under way."""
        each, in_all, quota = self._transfers[instance], self._transfers.total(), self.quota
        if each >= quota.transfers_each or in_all >= quota.transfers:
            self.refusals += 1
            raise Refused(
                instance,
                f"{each} transfers with it are under way, {in_all} with all others; there may be "
                f"{quota.transfers_each} and {quota.transfers}",
            )

    def add_blocks(self, instance: str, medium: Medium, blocks: int) -> None:
        """`blocks`: negative for those that are kept no more."""
        self._blocks[instance, medium] += blocks
        self._blocks_in_all[medium] += blocks
        if not self._blocks[instance, medium]:
            del self._blocks[instance, medium]

    def begin_transfer(self, instance: str) -> None:
        self._transfers[instance] += 1

    def end_transfer(self, instance: str) -> None:
        self._transfers[instance] -= 1
        if not self._transfers[instance]:
            del self._transfers[instance]

    @property
    def instances(self) -> int:
        """How many have something here."""
        return len({instance for instance, _ in self._blocks} | set(self._transfers))
