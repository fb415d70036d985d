"""One instance's part of the MemPool: its tiers and its index, under one lock."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from mempool.address import Addresses, Medium, Owner, merged
from mempool.errors import BadAddress, MemPoolError, OutOfBlocks, StaleAddress
from mempool.feed.feed import IndexFeed
from mempool.index.holding import Holding
from mempool.index.index import Index
from mempool.index.keys import Tokens
from mempool.results import BlockCounts, MatchResult
from mempool.tiers.copies import copy_blocks
from mempool.tiers.tier import Tier


class LocalPool:
    """The calls that need no other instance. Thread-safe; bytes are copied outside of the lock.

    `tiers`: one for each medium that this instance has, all of one layout (LayoutMismatch otherwise) and one
    incarnation.
    """

    def __init__(self, tiers: Sequence[Tier]) -> None:
        for tier in tiers:
            tiers[0].store.layout.require_same(tier.store.layout)
        self.lock = threading.RLock()
        self._kept: dict[object, Sequence[Addresses]] = {}
        self.feed = IndexFeed(self.lock, lambda: (self.incarnation, self.index))
        self._begin({tier.medium: tier for tier in tiers})

    def _begin(self, tiers: dict[Medium, Tier]) -> None:
        self.tiers = tiers
        first = next(iter(tiers.values()))
        self.instance, self.incarnation, _ = first.owner
        self.layout = first.store.layout
        self.index = Index(
            self.layout.page_size,
            on_freed=self._freed,
            prefer=[tiers[medium].owner for medium in Medium if medium in tiers],
            on_event=self.feed.news,
        )

    def reset_incarnation(self, incarnation: int) -> None:
        """All blocks are free, but for those that are kept. Every address and lease of before is stale."""
        with self.lock:
            self._begin(
                {
                    medium: Tier.of(tier.owner._replace(incarnation=incarnation), tier.store)
                    for medium, tier in self.tiers.items()
                }
            )
            self._hold_back()
            self.feed.news()

    def tier(self, medium: Medium) -> Tier:
        """Raises OutOfBlocks where this instance has no such medium."""
        try:
            return self.tiers[medium]
        except KeyError:
            owner = Owner(self.instance, self.incarnation, medium)
            raise OutOfBlocks(owner, "this instance has none") from None

    def alloc_mem(self, size: int, medium: Medium) -> Addresses:
        """`size` blocks, the caller's until they are freed or inserted. Evicts historical KV if need be.

        Blocks leave HBM for DRAM, and are dropped if DRAM is full. Raises OutOfBlocks, and allocates nothing
        then.
        """
        while True:
            with self.lock:
                allocator = self.tier(medium).allocator
                short = size - allocator.free_blocks
                if short <= 0 or short > allocator.historical_blocks:
                    return allocator.alloc(size)
            if not self._make_room(medium, short):
                with self.lock:
                    return self.tier(medium).allocator.alloc(size)

    def free_mem(self, addresses: Addresses | Sequence[Addresses]) -> None:
        """Gives active blocks back. Raises BadAddress or StaleAddress for the first that is not active."""
        with self.lock:
            for part in _parts(addresses):
                self.tier(part.medium).allocator.free(part)

    def insert(
        self, tokens: Tokens, addresses: Addresses | Sequence[Addresses], namespace: str = ""
    ) -> list[Addresses]:
        """Publishes the KV of the whole blocks of `tokens`, or of the last ones where the head is published.

        Idempotent. Returns those blocks whose place is taken: they stay the caller's, who frees them. Raises
        BadAddress or StaleAddress for blocks of this instance that are not active, ValueError for more blocks
        than `tokens` have, or where blocks before them are missing.
        """
        parts = _parts(addresses)
        with self.lock:
            for part in self._local(parts):
                known = self.tier(part.medium).allocator.inactive(part)
                if not self.index.has_published(known):
                    raise BadAddress(part.owner, "blocks that have been unpublished are not the caller's")
            adopted, returned = self.index.insert(namespace, tokens, parts)
            self._publish(adopted)
            return returned

    def match(self, tokens: Tokens, namespace: str = "", *, lease_s: float | None = 30.0) -> MatchResult:
        """The longest published prefix of `tokens` in whole blocks, under a lease: release it."""
        with self.lock:
            index = self.index
            match = index.match(namespace, tokens, lease_s=lease_s)
            return MatchResult(match, self.lock, lambda: index is self.index)

    def delete(self, tokens: Tokens, namespace: str = "") -> int:
        """Unpublishes `tokens` and all that continue them; returns how many blocks.

        Blocks under a lease are reused only after it.
        """
        with self.lock:
            return self.index.delete(namespace, tokens)

    def clear(self) -> None:
        """Unpublishes everything. Blocks under a lease are reused only after it."""
        with self.lock:
            self.index.clear()

    def swap_out(self, num_blocks: int) -> int:
        """Moves `num_blocks` of historical KV from HBM to DRAM, the least recently used first.

        Returns how many left HBM: fewer where the rest is leased. What finds no room in DRAM is dropped.
        """
        hbm, left = self.tier(Medium.HBM), 0
        while left < num_blocks:
            with self.lock:
                index = self.index
                victims = index.victims(hbm.owner, num_blocks - left)
                for victim in victims:
                    hbm.allocator.pin(victim.addresses)
            gone = sum([self._demote(index, hbm, victim) for victim in victims])
            if not gone and not (victims and self._drop_from_dram(num_blocks - left)):
                break
            left += gone
        return left

    def swap_in(self, addresses: Addresses) -> Addresses:
        """Copies published DRAM blocks to HBM and publishes them there too; the DRAM copy stays for now.

        Returns the HBM addresses in the same order. Raises OutOfBlocks, and BadAddress for blocks that are
        not published, or not any more: hold the lease that `match` gave.
        """
        source, target = self.tier(addresses.medium), self.tier(Medium.HBM)
        with self.lock:
            holdings = self.index.holdings(addresses)
            source.allocator.pin(addresses)
        try:
            copies = rest = self.alloc_mem(len(addresses), Medium.HBM)
            try:
                copy_blocks(source, addresses, target, copies)
                with self.lock:
                    for holding in holdings:
                        self._add_copy(source, holding, rest[: len(holding.addresses)])
                        rest = rest[len(holding.addresses) :]
            except BaseException:
                self.give_back(rest)
                raise
            return copies
        finally:
            with self.lock:
                source.allocator.unpin(addresses)

    def pin(self, addresses: Sequence[Addresses]) -> None:
        """Keeps blocks from being reused, even if freed, until `unpin`. The caller holds the lock.

        Raises BadAddress or StaleAddress, and pins none then.
        """
        taken: list[Addresses] = []
        try:
            for part in addresses:
                self.tier(part.medium).allocator.pin(part)
                taken.append(part)
        except MemPoolError:
            self.unpin(taken)
            raise

    def unpin(self, addresses: Sequence[Addresses]) -> None:
        for part in addresses:
            if part.owner.incarnation == self.incarnation:
                self.tier(part.medium).allocator.unpin(part)

    def keep(self, addresses: Sequence[Addresses]) -> Callable[[], None]:
        """Keeps the bytes of blocks as they are until what this returns is called, once: for a device that
        reads them by itself. Blocks that are freed meanwhile, or whose incarnation ends, are reused after it.

        Raises BadAddress for blocks that are free, StaleAddress; none is kept then.
        """
        with self.lock:
            self.pin(addresses)
            keeping = object()
            self._kept[keeping] = addresses
        return partial(self._end_keeping, keeping)

    def give_up(self, addresses: Sequence[Addresses]) -> None:
        """Frees active blocks. Unpublishes historical ones that are not leased and not before other KV.

        Blocks that are neither any more belong to others, and are left alone.
        """
        with self.lock:
            for part in reversed(addresses):
                allocator = self.tier(part.medium).allocator
                self._unpublish(allocator.still_historical(part))
                self._free_active(part)

    def give_back(self, addresses: Addresses) -> None:
        """Frees the active blocks of a failed call, unless the incarnation they belong to has ended."""
        with self.lock:
            if addresses.owner.incarnation == self.incarnation:
                self.tier(addresses.medium).allocator.free(addresses)

    def expire(self) -> None:
        """Ends the leases whose deadline has passed."""
        with self.lock:
            self.index.expire_leases()

    def forget(self, instance: str, keep_incarnation: int | None = None) -> int:
        """Unpublishes what points to a dead instance; returns how many blocks."""
        with self.lock:
            return self.index.drop_owners(instance, keep_incarnation)

    def counts(self, medium: Medium) -> BlockCounts:
        with self.lock:
            allocator = self.tier(medium).allocator
            return BlockCounts(
                allocator.free_blocks, allocator.active_blocks, allocator.historical_blocks, allocator.total
            )

    def _make_room(self, medium: Medium, blocks: int) -> int:
        if medium is Medium.HBM and Medium.DRAM in self.tiers:
            return self.swap_out(blocks)
        with self.lock:
            return self.index.evict(self.tiers[medium].owner, blocks)

    def _demote(self, index: Index, hbm: Tier, victim: Holding) -> int:
        copy = None if victim.copies > 1 else self._dram_for(len(victim.addresses))
        try:
            if copy is not None:
                copy_blocks(hbm, victim.addresses, self.tiers[Medium.DRAM], copy)
            with self.lock:
                done = index is self.index and index.replace(victim, copy)
                if done and copy is not None:
                    self._publish([copy])
                    copy = None
        finally:
            with self.lock:
                if copy is not None:
                    self.give_back(copy)
                hbm.allocator.unpin(victim.addresses)
        return len(victim.addresses) if done else 0

    def _drop_from_dram(self, blocks: int) -> int:
        """Makes room in DRAM, where KV that hangs on blocks in HBM keeps these from leaving."""
        with self.lock:
            dram = self.tiers.get(Medium.DRAM)
            return 0 if dram is None else self.index.evict(dram.owner, blocks)

    def _dram_for(self, blocks: int) -> Addresses | None:
        if Medium.DRAM not in self.tiers:
            return None
        try:
            return self.alloc_mem(blocks, Medium.DRAM)
        except OutOfBlocks:
            return None

    def _add_copy(self, source: Tier, holding: Holding, copy: Addresses) -> None:
        if self.tiers[source.medium] is not source:
            raise StaleAddress(source.owner, f"no more: the present incarnation is {self.incarnation}")
        if not self.index.add_copy(holding, copy):
            raise BadAddress(source.owner, "evicted, or swapped in by another, meanwhile")
        self._publish([copy])

    def _publish(self, adopted: Sequence[Addresses]) -> None:
        for part in self._local(adopted):
            self.tier(part.medium).allocator.publish(part)

    def _freed(self, addresses: Addresses) -> None:
        for part in self._local([addresses]):
            # A lease of before `reset_incarnation` may end after it.
            if part.owner.incarnation == self.incarnation:
                self.tier(part.medium).allocator.retire(part)

    def _unpublish(self, addresses: Addresses) -> None:
        whole = self.index.has_published(addresses)
        parts = [addresses] if whole else [addresses[n : n + 1] for n in range(len(addresses))]
        for part in reversed(parts):
            # An unpublished block is historical until the lease on it ends.
            if self.index.has_published(part):
                for holding in reversed(self.index.holdings(part)):
                    self.index.replace(holding, None)

    def _free_active(self, addresses: Addresses) -> None:
        with self.lock:
            allocator = self.tier(addresses.medium).allocator
            allocator.free(allocator.still_active(addresses))

    def _end_keeping(self, keeping: object) -> None:
        with self.lock:
            for part in self._kept.pop(keeping):
                self.tiers[part.medium].allocator.unpin(part)

    def _hold_back(self) -> None:
        """What is kept over the end of an incarnation is free once it is kept no longer."""
        for medium, tier in self.tiers.items():
            kept = [part for parts in self._kept.values() for part in parts if part.medium is medium]
            if kept:
                everything = tier.allocator.alloc(tier.allocator.total)
                for part in kept:
                    tier.allocator.pin(Addresses(tier.owner, part.blocks))
                tier.allocator.free(everything)

    def _local(self, addresses: Sequence[Addresses]) -> list[Addresses]:
        return [part for part in addresses if part.owner.instance == self.instance]


def _parts(addresses: Addresses | Sequence[Addresses]) -> list[Addresses]:
    return merged([addresses] if isinstance(addresses, Addresses) else addresses)
