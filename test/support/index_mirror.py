"""A tree kept equal to an index by its snapshot and its events: what the events are checked with."""

from mempool.index.events import Cleared, Copied, EventGap, Moved, Removed, Snapshot, Stored
from mempool.index.holder import Holder
from mempool.index.tree import NUMBER_BYTES, Root, Tree


class Mirror:
    """`tree` is what the index held after event `seq`; its nodes may be split elsewhere.

    An event that contradicts the tree is an AssertionError: these events come from our own index.
    """

    def __init__(self, page_size):
        self.page_size = page_size
        self.seq = None
        self.tree, self.holders = Tree(page_size), {}

    def apply(self, what):
        """Raises EventGap for an event that is not the next: a snapshot must follow."""
        if isinstance(what, Snapshot):
            assert what.page_size == self.page_size
            self.tree, self.holders = Tree(self.page_size), {}
            for stored in what.stored:
                self._store(stored)
        else:
            expected, self.seq = None if self.seq is None else self.seq + 1, None
            if what.seq != expected:
                raise EventGap(expected, what.seq)
            self._apply_event(what)
        self.seq = what.seq

    def _apply_event(self, event):
        match event:
            case Stored():
                self._store(event)
            case Copied():
                self._copy(event.run, event.first, event.owner, event.blocks)
            case Moved():
                # The new copy first: a block that nobody has would go.
                self._copy(event.run, event.first, event.target, event.blocks)
                self._remove(event.run, event.first, len(event.blocks) // NUMBER_BYTES, event.source)
            case Removed():
                self._remove(event.run, event.first, event.count, event.owner)
            case Cleared():
                self._clear(event.namespace)

    def _store(self, stored):
        parent = self._parent(stored)
        assert stored.copies
        assert stored.tokens
        assert not len(stored.tokens) % self.tree.page_bytes
        assert stored.tokens[: self.tree.page_bytes] not in parent.children
        continues = (parent.run, parent.first + parent.blocks) == (stored.run, stored.first)
        assert continues or (not stored.first and stored.run not in self.tree.deepest)
        node = self.tree.attach(parent, stored.tokens, stored.run, stored.first)
        for owner, numbers in stored.copies:
            self._add(node, owner, numbers)

    def _parent(self, stored):
        if stored.parent_run < 0:
            return self.tree.roots.get(stored.namespace) or Root(stored.namespace)
        return self._cut(stored.parent_run, stored.parent_block, 1)[0]

    def _copy(self, run, first, owner, numbers):
        at = 0
        for node in self._cut(run, first, len(numbers) // NUMBER_BYTES):
            size = node.blocks * NUMBER_BYTES
            self._add(node, owner, numbers[at : at + size])
            at += size

    def _remove(self, run, first, count, owner):
        holder = self.holders[owner]
        for node in reversed(self._cut(run, first, count)):
            assert node.droppable
            self.tree.take_copy(node, holder)
            if not node.copies:
                self.tree.detach(node)

    def _clear(self, namespace):
        roots = self.tree.roots
        for name in list(roots) if namespace is None else [namespace] if namespace in roots else []:
            for node in reversed(self.tree.below(roots[name])[1:]):
                for holder in list(node.copies):
                    self.tree.take_copy(node, holder)
                self.tree.detach(node)

    def _add(self, node, owner, numbers):
        holder = self.holders.setdefault(owner, Holder(owner))
        assert len(numbers) == node.blocks * NUMBER_BYTES
        assert holder not in node.copies
        self.tree.add_copy(node, holder, numbers)

    def _cut(self, run, first, count):
        """Nodes of exactly these blocks of a run, parents first."""
        nodes, stop = [], first + count
        while first < stop:
            node = self.tree.find(run, first)
            assert node is not None
            if first > node.first:
                self.tree.split(node, first - node.first)
            if stop < node.first + node.blocks:
                node = self.tree.split(node, stop - node.first)
            nodes.append(node)
            first += node.blocks
        return nodes
