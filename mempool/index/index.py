"""The index that a MemPool publishes its blocks in."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mempool.address import Addresses, Owner
from mempool.index.events import AnyEvent, EventLog, Snapshot
from mempool.index.holder import Holder
from mempool.index.holding import Holding, add_copy, discard, holdings, replace, victims
from mempool.index.insertion import InsertResult, insert
from mempool.index.integrity import check
from mempool.index.keys import Tokens, key_of
from mempool.index.leases import Lease, LeaseTable
from mempool.index.state import IndexState, OnFreed, addresses_of
from mempool.index.tree import NUMBER_BYTES, Node

__all__ = ["Holding", "Index", "IndexMatch", "InsertResult"]

# Each keeps its tokens, 4 KiB of 1,000: who is further behind is better off with a snapshot.
_LOG_EVENTS = 16384


class IndexMatch(NamedTuple):
    """The longest indexed prefix: `blocks` whole blocks, `tokens` tokens.

    `addresses`: one copy of each block, in order, neighbours of one owner together. `lease`: None where none
    was asked for, or nothing matched.
    """

    blocks: int
    tokens: int
    addresses: list[Addresses]
    lease: Lease | None


class Index:
    """Which prefixes of tokens are in which blocks: whole blocks of `page_size` tokens, in namespaces.

    Not thread-safe: the pool holds one lock around it and around its leases. A call that raises has changed
    nothing.

    `on_freed` is called with every published copy that left the index: at once, or at the end of the last
    lease on it. It must not raise, nor call the index. `prefer`: the owners whose copy `match` names where
    several owners have one, best first; otherwise it names the oldest. `on_event`: called after each event,
    with the same rules as `on_freed`. `clock`: monotonic, seconds.
    """

    def __init__(
        self,
        page_size: int,
        *,
        on_freed: OnFreed,
        prefer: Sequence[Owner] = (),
        log_events: int = _LOG_EVENTS,
        on_event: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.page_size = page_size
        self._clock = clock
        self._state = IndexState(page_size, on_freed, EventLog(log_events, on_event))
        self._tree = self._state.tree
        self._leases = LeaseTable(clock, self._state.unpinned)
        self._preferred = [self._state.holder(owner) for owner in prefer]

    @property
    def nodes(self) -> int:
        return self._tree.nodes

    @property
    def leases(self) -> int:
        return self._leases.count

    def blocks_of(self, owner: Owner) -> int:
        """How many blocks this owner has published."""
        holder = self._state.holders.get(owner)
        return 0 if holder is None else holder.blocks

    def has_published(self, addresses: Addresses) -> bool:
        """Whether all of them are published. Raises BadAddress for a block named twice or negative."""
        holder = self._state.holders.get(addresses.owner)
        if holder is None:
            return not len(addresses)
        return bool((holder.places(addresses.blocks) >= 0).all())

    def match(self, namespace: str, tokens: Tokens, *, lease_s: float | None = None) -> IndexMatch:
        """The longest prefix in whole blocks; it counts as used now.

        A lease keeps the blocks for `lease_s`. Raises ValueError for a token that is no int32 or
        negative.
        """
        path, blocks = self._tree.walk(namespace, self._key(tokens))
        now = self._clock()
        for node in path:
            node.used = now
        lease = None
        if path and lease_s is not None:
            lease = self._leases.grant(path[-1], lease_s)
        return IndexMatch(blocks, blocks * self.page_size, self._choose_copies(path, blocks), lease)

    def insert(
        self,
        namespace: str,
        tokens: Tokens,
        addresses: Sequence[Addresses],
    ) -> InsertResult:
        """Publishes the last blocks of `tokens` (of its whole blocks: a tail below a page is ignored).

        The blocks before them must be indexed already. Idempotent: where an owner has a block already, its
        new one is returned; where only others have it, they have it both from now on.

        Raises ValueError for such tokens as `match` refuses and where blocks before are missing, BadAddress
        for a block that is published elsewhere or named twice.
        """
        return insert(self._state, namespace, self._key(tokens), addresses, self._clock())

    def delete(self, namespace: str, tokens: Tokens) -> int:
        """Unpublishes every sequence that starts with the whole blocks of `tokens`; returns how many blocks.

        Of tokens' own blocks those go that no other sequence shares (one that is itself a prefix of `tokens`
        is no other). `match` does not find them from now on; copies under a lease are freed at its end.
        Tokens without a whole block name nothing: `clear` empties a namespace.
        """
        key = self._key(tokens)
        path, blocks = self._tree.walk(namespace, key)
        if not path:
            return 0
        top = path[-1]
        if blocks < len(key) // self._tree.page_bytes and (top.children or blocks < top.end):
            return 0
        while top.parent is not None and top.parent.parent is not None and len(top.parent.children) == 1:
            top = top.parent
        return self._flushed(self._state.prune(top))

    def evict(self, owner: Owner, blocks: int) -> int:
        """Drops `blocks` of this owner's copies, the least recently used first; returns how many went.

        It drops no leased block, and no block on whose only copy others hang: then it drops fewer.
        """
        holder, gone = self._state.holders.get(owner), 0
        if holder is None:
            return 0
        queue = self._state.queues[holder]
        while gone < blocks and (node := queue.pop()) is not None:
            if node.pins or not node.droppable:
                queue.park(node)
                continue
            if node.blocks > blocks - gone:
                self._state.split(node, node.blocks - (blocks - gone))
            gone += node.blocks
            self._state.drop(node, holder)
        return self._flushed(gone)

    def victims(self, owner: Owner, blocks: int) -> list[Holding]:
        """Up to `blocks` of this owner's copies that would be the next to be moved away, for `replace`."""
        holder = self._state.holders.get(owner)
        return [] if holder is None else victims(self._state, holder, blocks)

    def holdings(self, addresses: Addresses) -> list[Holding]:
        """The published blocks at these addresses: the holdings' own, put together, are the same in order.

        Raises BadAddress for a block that is not published, or named twice.
        """
        return holdings(self._state, addresses)

    def replace(self, holding: Holding, new: Addresses | None) -> bool:
        """Puts `new` blocks of another owner in the place of these, which are freed; None: drops these.

        False, and nothing changed, if the holding is stale: split, moved, gone or leased meanwhile; if that
        owner has a copy already; or if these are the only copy of what others hang on. Raises ValueError and
        BadAddress for `new` blocks that do not fit.
        """
        return bool(self._flushed(replace(self._state, holding, new)))

    def add_copy(self, holding: Holding, new: Addresses) -> bool:
        """As `replace`, but keeps both copies; a lease does not matter."""
        return add_copy(self._state, holding, new)

    def discard(self, addresses: Addresses) -> int:
        """Drops those of these blocks that are published; returns how many were dropped.

        What becomes unreachable goes too, whoever has it; leased blocks are freed when their leases end.
        Raises BadAddress for a block named twice or negative.
        """
        return self._flushed(discard(self._state, addresses))

    def drop_owners(self, instance: str, keep_incarnation: int | None = None) -> int:
        """Drops all copies of an instance, but those of one incarnation; returns how many.

        What becomes unreachable goes too, whoever has it.
        """
        dead = [
            holder
            for owner, holder in self._state.holders.items()
            if owner.instance == instance and owner.incarnation != keep_incarnation
        ]
        gone = sum(holder.blocks for holder in dead)
        self._state.drop_holders(dead)
        for holder in dead:
            if holder not in self._preferred:
                self._state.forget_holder(holder)
        return self._flushed(gone)

    def clear(self, namespace: str | None = None) -> None:
        """Unpublishes a namespace; None: all."""
        roots = self._tree.roots
        for name in list(roots) if namespace is None else [namespace] if namespace in roots else []:
            self._state.clear(name)
        self._state.add_cleared_event(namespace)
        self._state.flush()

    def expire_leases(self) -> int:
        """Reclaims the leases that outlived their deadlines; returns how many."""
        return self._leases.reclaim()

    def snapshot(self) -> Snapshot:
        """All there is. From the first one on, events are kept for `events_since`."""
        return self._state.snapshot()

    def events_since(self, seq: int) -> list[AnyEvent] | None:
        """What happened after event `seq`. None: that is too long ago, take a snapshot."""
        return self._state.log.since(seq)

    def check_integrity(self) -> None:
        """Raises AssertionError where the index contradicts itself. Walks all of it: for tests."""
        check(self._state, self._leases)

    def _key(self, tokens: Tokens) -> bytes:
        key = key_of(tokens)
        tail = len(key) % self._tree.page_bytes
        return key[:-tail] if tail else key

    def _choose_copies(self, path: list[Node], blocks: int) -> list[Addresses]:
        groups: list[tuple[Holder, list[bytes]]] = []
        last = None
        for node in path:
            holder = self._choose_holder(node) if len(node.copies) > 1 else next(iter(node.copies))
            copy = node.copies[holder]
            if node.end > blocks:
                copy = copy[: (blocks - node.start) * NUMBER_BYTES]
            if holder is last:
                groups[-1][1].append(copy)
            else:
                groups.append((holder, [copy]))
                last = holder
        return [addresses_of(holder, copies) for holder, copies in groups]

    def _choose_holder(self, node: Node) -> Holder:
        for holder in self._preferred:
            if holder in node.copies:
                return holder
        return next(iter(node.copies))

    def _flushed(self, count: int) -> int:
        self._state.flush()
        return count
