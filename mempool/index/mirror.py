"""A tree kept equal to an index elsewhere, by its snapshot and its events."""

from mempool.address import Owner
from mempool.errors import FrameError, MemPoolError
from mempool.index.events import AnyEvent, Cleared, Copied, Moved, Removed, Snapshot, Stored
from mempool.index.holder import Holder
from mempool.index.tree import NUMBER_BYTES, Node, Root, Tree


class EventGap(MemPoolError):
    """An event is not the next one: a snapshot puts the mirror right again."""

    def __init__(self, expected: int | None, seen: int) -> None:
        wanted = "a snapshot first" if expected is None else f"event {expected}"
        super().__init__(f"{wanted} was expected, event {seen} came")
        self.expected = expected
        self.seen = seen


class Mirror:
    """`tree` is what the index held after event `seq`; its nodes may be split elsewhere. Not thread-safe.

    An event that raises leaves `seq` None: the mirror then takes nothing but a snapshot.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.seq: int | None = None
        self._reset()

    def _reset(self) -> None:
        self.tree = Tree(self.page_size)
        self.holders: dict[Owner, Holder] = {}

    def apply(self, what: Snapshot | AnyEvent) -> None:
        """Raises EventGap for an event that is not the next, FrameError for one that cannot be true."""
        if isinstance(what, Snapshot):
            self._apply_snapshot(what)
            return
        expected, self.seq = None if self.seq is None else self.seq + 1, None
        if what.seq != expected:
            raise EventGap(expected, what.seq)
        self._apply_event(what)
        self.seq = what.seq

    def _apply_snapshot(self, snapshot: Snapshot) -> None:
        self.seq = None
        if snapshot.page_size != self.page_size:
            raise FrameError(f"a snapshot of pages of {snapshot.page_size} tokens, {self.page_size} here")
        self._reset()
        for stored in snapshot.stored:
            self._store(stored)
        self.seq = snapshot.seq

    def _apply_event(self, event: AnyEvent) -> None:
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

    def _store(self, stored: Stored) -> None:
        tree = self.tree
        blocks, odd = divmod(len(stored.tokens), tree.page_bytes)
        if not blocks or odd or not stored.copies:
            raise FrameError(f"run {stored.run} has no whole blocks, or no owner")
        parent = self._parent(stored)
        continues = (parent.run, parent.first + parent.blocks) == (stored.run, stored.first)
        if stored.tokens[: tree.page_bytes] in parent.children or (
            not continues and (stored.first or stored.run in tree.deepest)
        ):
            raise FrameError(f"block {stored.first} of run {stored.run} is here already, or has no place")
        node = tree.attach(parent, stored.tokens, stored.run, stored.first)
        for owner, numbers in stored.copies:
            self._add(node, owner, numbers)

    def _parent(self, stored: Stored) -> Node:
        if stored.parent_run < 0:
            return self.tree.roots.get(stored.namespace) or Root(stored.namespace)
        return self._cut(stored.parent_run, stored.parent_block, 1)[0]

    def _copy(self, run: int, first: int, owner: Owner, numbers: bytes) -> None:
        count, odd = divmod(len(numbers), NUMBER_BYTES)
        if odd:
            raise FrameError(f"{len(numbers)} bytes are no block numbers")
        at = 0
        for node in self._cut(run, first, count):
            size = node.blocks * NUMBER_BYTES
            self._add(node, owner, numbers[at : at + size])
            at += size

    def _remove(self, run: int, first: int, count: int, owner: Owner) -> None:
        holder = self.holders.get(owner)
        for node in reversed(self._cut(run, first, count)):
            if holder is None or holder not in node.copies or not node.droppable:
                raise FrameError(f"{owner} cannot drop block {node.first} of run {run}")
            self.tree.take_copy(node, holder)
            if not node.copies:
                self.tree.detach(node)

    def _clear(self, namespace: str | None) -> None:
        roots = self.tree.roots
        for name in list(roots) if namespace is None else [namespace] if namespace in roots else []:
            for node in reversed(self.tree.below(roots[name])[1:]):
                for holder in list(node.copies):
                    self.tree.take_copy(node, holder)
                self.tree.detach(node)

    def _add(self, node: Node, owner: Owner, numbers: bytes) -> None:
        holder = self.holders.setdefault(owner, Holder(owner))
        if len(numbers) != node.blocks * NUMBER_BYTES or holder in node.copies:
            raise FrameError(f"{owner} cannot have {node.blocks} blocks of run {node.run} as told")
        self.tree.add_copy(node, holder, numbers)

    def _cut(self, run: int, first: int, count: int) -> list[Node]:
        """Nodes of exactly these blocks of a run, parents first. Raises FrameError unless all are here."""
        nodes, stop = list[Node](), first + count
        while first < stop:
            node = self.tree.find(run, first)
            if node is None:
                raise FrameError(f"block {first} of run {run} is unknown")
            if first > node.first:
                self.tree.split(node, first - node.first)
            if stop < node.first + node.blocks:
                node = self.tree.split(node, stop - node.first)
            nodes.append(node)
            first += node.blocks
        return nodes
