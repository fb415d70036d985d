"""The tree, and what follows from its changes: counts, reverse maps, queues, events, freed blocks."""

from collections.abc import Callable

import numpy as np

from mempool.address import Addresses, BlockNumbers, Owner
from mempool.errors import BadAddress
from mempool.index.events import AnyEvent, Cleared, Copied, EventLog, Moved, Removed, Snapshot, Stored
from mempool.index.eviction import EvictionQueue
from mempool.index.holder import Holder
from mempool.index.tree import Node, Root, Tree

OnFreed = Callable[[Addresses], None]


def numbers_of(copy: bytes) -> BlockNumbers:
    """int32 `[n]`, read-only."""
    return np.frombuffer(copy, dtype=np.int32)


def addresses_of(holder: Holder, copies: list[bytes]) -> Addresses:
    return Addresses(holder.owner, np.frombuffer(bytearray().join(copies), dtype=np.int32))


class IndexState:
    """Every change to the tree of an index is one of these methods. Copies that left wait for `flush`."""

    def __init__(self, page_size: int, on_freed: OnFreed, log: EventLog) -> None:
        self.tree = Tree(page_size)
        self.page_size = page_size
        self.holders: dict[Owner, Holder] = {}
        self.queues: dict[Holder, EvictionQueue] = {}
        self.log = log
        self._on_freed = on_freed
        self._freed: dict[Holder, list[bytes]] = {}
        self._leaving: dict[Node, list[tuple[Holder, bytes]]] = {}
        self._runs = 0

    def holder(self, owner: Owner) -> Holder:
        holder = self.holders.get(owner)
        if holder is None:
            holder = self.holders[owner] = Holder(owner)
            self.queues[holder] = EvictionQueue(holder)
        return holder

    def forget_holder(self, holder: Holder) -> None:
        del self.holders[holder.owner], self.queues[holder]

    def publish(self, parent: Node, key: bytes, holder: Holder, blocks: BlockNumbers, now: float) -> Node:
        """A new run below `parent`."""
        run, self._runs = self._runs, self._runs + 1
        node = self.tree.attach(parent, key, run, 0)
        node.used = now
        self._add(node, holder, blocks)
        if self.log.on:
            self.log.add(self._stored(node, self.log.next_seq()))
        return node

    def copy(self, node: Node, holder: Holder, blocks: BlockNumbers) -> None:
        """Another holder's copy of a node that has none of it."""
        self._add(node, holder, blocks)
        self._wake(node)
        self._add_event(
            Copied, run=node.run, first=node.first, owner=holder.owner, blocks=node.copies[holder]
        )

    def move(self, node: Node, source: Holder, target: Holder, blocks: BlockNumbers) -> None:
        """One holder's copy in place of another's."""
        self._release(node, source)
        self._add(node, target, blocks)
        self._add_event(
            Moved,
            run=node.run,
            first=node.first,
            source=source.owner,
            target=target.owner,
            blocks=node.copies[target],
        )

    def drop(self, node: Node, holder: Holder) -> None:
        """Takes one copy out: the last one only of a leaf, which goes with it."""
        self._take(node, holder)
        if not node.copies:
            self._detach(node)

    def prune(self, top: Node, *, with_events: bool = True) -> int:
        """Takes a node out with all below it, the deepest first; returns how many blocks that were."""
        blocks = 0
        for node in reversed(self.tree.below(top)):
            blocks += node.blocks
            for holder in list(node.copies):
                if with_events:
                    self._take(node, holder)
                else:
                    self._release(node, holder)
            self._detach(node)
        return blocks

    def drop_holders(self, dead: list[Holder]) -> None:
        """Takes all their copies out, and all that only they kept reachable."""
        for holder in dead:
            for node in self.queues[holder].nodes():
                if holder not in node.copies:
                    continue
                if all(other in dead for other in node.copies):
                    self.prune(node)
                else:
                    self.drop(node, holder)

    def clear(self, namespace: str) -> None:
        for child in list(self.tree.roots[namespace].children.values()):
            self.prune(child, with_events=False)

    def add_cleared_event(self, namespace: str | None) -> None:
        self._add_event(Cleared, namespace=namespace)

    def split(self, node: Node, blocks: int) -> Node:
        """As `Tree.split`."""
        prefix = self.tree.split(node, blocks)
        for holder in prefix.copies:
            self.queues[holder].push(prefix)
        return prefix

    def cut(self, node: Node, first: int, stop: int) -> Node:
        """The node of exactly the blocks `first` to `stop` (counted within `node`), by up to two splits."""
        if stop < node.blocks:
            node = self.split(node, stop)
        if first:
            self.split(node, first)
        return node

    def unpinned(self, node: Node) -> None:
        """No lease holds the node any more: what left it meanwhile is freed, and it may be evicted."""
        if self._leaving and node in self._leaving:
            for holder, copy in self._leaving.pop(node):
                self._freed.setdefault(holder, []).append(copy)
            self.flush()
        self._wake(node)

    def flush(self) -> None:
        """Hands over what was freed, once for each holder."""
        if self._freed:
            freed, self._freed = self._freed, {}
            for holder, copies in freed.items():
                self._on_freed(addresses_of(holder, copies))

    def require_new(self, holder: Holder, blocks: BlockNumbers) -> None:
        """Raises BadAddress for a block that is published already, or named twice."""
        published = holder.places(blocks) >= 0
        if published.any():
            raise BadAddress(holder.owner, f"block {int(blocks[published.argmax()])} is published already")

    def snapshot(self) -> Snapshot:
        """Turns the log on: the owner of a snapshot needs the events that follow."""
        self.log.turn_on()
        stored = [
            self._stored(node, self.log.seq, namespace)
            for namespace, nodes in self.tree.namespaces()
            for node in nodes
        ]
        return Snapshot(seq=self.log.seq, page_size=self.page_size, stored=stored)

    def _add(self, node: Node, holder: Holder, blocks: BlockNumbers) -> None:
        self.tree.add_copy(node, holder, blocks.tobytes())
        holder.record(blocks, node.run, node.first)
        self.queues[holder].push(node)

    def _take(self, node: Node, holder: Holder) -> None:
        self._release(node, holder)
        self._add_event(Removed, run=node.run, first=node.first, count=node.blocks, owner=holder.owner)

    def _release(self, node: Node, holder: Holder) -> None:
        copy = self.tree.take_copy(node, holder)
        holder.forget(numbers_of(copy))
        if node.parked:
            self.queues[holder].wake(node)
        if node.pins:
            self._leaving.setdefault(node, []).append((holder, copy))
        else:
            self._freed.setdefault(holder, []).append(copy)

    def _detach(self, leaf: Node) -> None:
        self.tree.detach(leaf)
        if leaf.parent is not None and not leaf.parent.children:
            self._wake(leaf.parent)

    def _wake(self, node: Node) -> None:
        if node.parked:
            node.parked = False
            for holder in node.copies:
                self.queues[holder].wake(node)

    def _add_event(self, kind: Callable[..., AnyEvent], **what: object) -> None:
        if self.log.on:
            self.log.add(kind(seq=self.log.next_seq(), **what))

    def _stored(self, node: Node, seq: int, namespace: str | None = None) -> Stored:
        parent = node.parent
        assert parent is not None
        if namespace is None:
            namespace = self._namespace(node)
        return Stored(
            seq=seq,
            namespace=namespace,
            run=node.run,
            first=node.first,
            parent_run=parent.run,
            parent_block=parent.first + parent.blocks - 1,
            tokens=node.key,
            copies=[(holder.owner, copy) for holder, copy in node.copies.items()],
        )

    @staticmethod
    def _namespace(node: Node) -> str:
        above: Node | None = node
        while above is not None and not isinstance(above, Root):
            above = above.parent
        assert above is not None
        return above.namespace
