"""One radix tree kept equal to the indexes of all instances, by their snapshots and events.

Block numbers are not kept. Long work is done in steps: wherever it yields, the caller may do something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from mempool.address import Medium, Owner
from mempool.errors import FrameError, MemPoolError
from mempool.index.events import AnyEvent, Cleared, Copied, Moved, Removed, Stored
from mempool.index.keys import TOKEN_BYTES
from mempool.index.tree import NUMBER_BYTES
from router.instances.instance import Instance
from router.prefix_tree.base import Cached
from router.prefix_tree.instance_index import IndexNode, IndexRadix, InstanceIndex, bare, owners_of
from router.prefix_tree.node import NamespaceRoot

# Snapshots fill the tree up to this share: the rest is left to the events of indexes that are here already.
_SNAPSHOT_SHARE = 0.9


class TreeFull(MemPoolError):
    """The tree has as many tokens as it may."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(f"the tree is full with {max_tokens} tokens: raise --max-tree-size")


class Mirrors:
    """An index for each instance and medium that reports events; all of them in one tree of `max_tokens`
    tokens.

    An index that raised differs from the instance's: close it, and open it anew with a snapshot. All others
    are unaffected.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._radix = IndexRadix()
        self._indexes: dict[tuple[Instance, Medium], InstanceIndex] = {}
        self._ended: deque[InstanceIndex] = deque()

    def match(self, namespace: str, key: bytes, max_tokens: int) -> dict[Instance, Cached]:
        """What each instance has of the first `max_tokens` tokens of `key` (int32 bytes), in whole pages."""
        root = self._radix.roots.get(namespace)
        if root is None:
            return {}
        path, matched = self._radix.walk(root, key)
        found: dict[InstanceIndex, int] = {}
        end = matched // TOKEN_BYTES
        for node in reversed(path):
            # An index that holds a node holds those above it: equal counts mean the same indexes.
            if len(node.held) > len(found):
                for index in node.held:
                    found.setdefault(index, end)
            end = node.end - len(node.key) // TOKEN_BYTES
        return _by_instance(found, max_tokens)

    def follows(self, instance: Instance) -> bool:
        """Whether all that it has in HBM is known here."""
        index = self._indexes.get((instance, Medium.HBM))
        return index is not None and index.seq is not None and index.lives

    def open(self, instance: Instance, medium: Medium, page: int) -> InstanceIndex:
        """An empty index, in place of the one before. Raises FrameError for an impossible page size."""
        index = InstanceIndex(instance, medium, page)
        self.close(instance, medium)
        self._indexes[instance, medium] = index
        return index

    def close(self, instance: Instance, medium: Medium) -> None:
        """Nothing of that index counts any more; `sweep` frees it."""
        index = self._indexes.pop((instance, medium), None)
        if index is not None:
            index.end()
            self._ended.append(index)

    def sweep(self) -> Iterator[None]:
        """Frees what was closed."""
        while self._ended:
            yield from self._clear(self._ended[0], None)
            self._ended.popleft()

    def load(self, index: InstanceIndex, stored: Iterable[Stored], seq: int) -> Iterator[None]:
        """Loads a snapshot as of event `seq`. Raises FrameError for an impossible one, and TreeFull."""
        max_tokens = int(_SNAPSHOT_SHARE * self._max_tokens)
        for run in stored:
            self._store(index, run, max_tokens)
            yield
        index.reached(seq)

    def apply(self, index: InstanceIndex, event: AnyEvent) -> Iterator[None]:
        """Applies the next event. Raises as `load`, and EventGap for an event that is not the next."""
        index.expect(event.seq)
        match event:
            case Stored():
                self._store(index, event, self._max_tokens)
            case Copied():
                self._copy(index, event.run, event.first, event.owner, event.blocks)
            case Moved():
                # The new copy comes first: a block without an owner would be dropped.
                count = self._copy(index, event.run, event.first, event.target, event.blocks)
                self._remove(index, event.run, event.first, count, event.source)
            case Removed():
                self._remove(index, event.run, event.first, event.count, event.owner)
            case Cleared():
                yield from self._clear(index, event.namespace)
        index.reached(event.seq)
        yield

    def sizes(self) -> dict[str, int]:
        runs = sum(len(index.runs) for index in self._indexes.values())
        return {"tokens": self._radix.tokens, "nodes": self._radix.nodes, "runs": runs}

    def _store(self, index: InstanceIndex, stored: Stored, max_tokens: int) -> None:
        tokens, page = stored.tokens, index.page * TOKEN_BYTES
        blocks, odd = divmod(len(tokens), page)
        if not blocks or odd or not stored.copies:
            raise FrameError(f"run {stored.run} has no whole blocks, or no owner")
        parent = self._parent(index, stored)
        start = self._start(index, stored, parent)
        before, known = self._radix.walk(parent, tokens[:page])
        if known == page and index in before[-1].held:
            raise FrameError(f"block {stored.first} of run {stored.run} is here already")
        if self._radix.size + len(tokens) // TOKEN_BYTES > max_tokens:
            raise TreeFull(self._max_tokens)
        owners = 0
        for owner, numbers in stored.copies:
            if len(numbers) != blocks * NUMBER_BYTES or index.bit(owner) & owners:
                raise FrameError(f"{owner} cannot have {blocks} blocks of run {stored.run} as reported")
            owners |= index.bit(owner)
        end = self._radix.reach(parent, tokens)
        self._radix.hold(index, parent, end, owners)
        self._radix.runs += stored.run not in index.runs
        index.runs[stored.run] = end, start

    def _parent(self, index: InstanceIndex, stored: Stored) -> IndexNode:
        if stored.parent_run < 0:
            return self._radix.root(stored.namespace)
        return self._radix.ending(index, stored.parent_run, stored.parent_block + 1)

    @staticmethod
    def _start(index: InstanceIndex, stored: Stored, parent: IndexNode) -> int:
        """The token at which the run begins: here, or where it began before if it goes on where it ended."""
        end, start = index.runs.get(stored.run, (None, parent.end))
        goes_on = end is parent and stored.parent_run == stored.run
        if not (end is None or goes_on) or parent.end != start + stored.first * index.page:
            raise FrameError(f"block {stored.first} of run {stored.run} has no place")
        return start

    def _copy(self, index: InstanceIndex, run: int, first: int, owner: Owner, numbers: bytes) -> int:
        count, odd = divmod(len(numbers), NUMBER_BYTES)
        if odd:
            raise FrameError(f"{len(numbers)} bytes are no block numbers")
        bit = index.bit(owner)
        ends = [node for node in self._radix.cut(index, run, first, count) if index.ends_in(node)]
        if any(node.held[index] & bit for node in ends):
            raise FrameError(f"{owner} has block {first} of run {run}, or one after it, already")
        for node in ends:
            node.held[index] |= bit
        return count

    def _remove(self, index: InstanceIndex, run: int, first: int, count: int, owner: Owner) -> None:
        bit, nodes = index.bit(owner), self._radix.cut(index, run, first, count)
        ends = [node for node in nodes if index.ends_in(node)]
        owners = owners_of(ends[0], index)
        # An event is about one node of the instance's index, and all blocks of a node have the same owners.
        if not owners & bit or any(owners_of(node, index) != owners for node in ends):
            raise FrameError(f"{owner} cannot drop block {first} of run {run}, which it does not have")
        if owners != bit:
            for node in ends:
                node.held[index] -= bit
            return
        if not bare(index, nodes):
            raise FrameError(f"{owner} cannot drop block {first} of run {run}: others hang on it")
        (_, start), above = index.runs[run], nodes[-1].parent
        assert above is not None
        self._radix.drop_run(index, nodes[0], above.end)
        if first:
            index.runs[run] = above, start
        else:
            del index.runs[run]
            self._radix.runs -= 1

    def _clear(self, index: InstanceIndex, namespace: str | None) -> Iterator[None]:
        """Clears the last run first, so that no other run hangs on it."""
        if namespace is None:
            while index.runs:
                _, (end, start) = index.runs.popitem()
                self._radix.runs -= 1
                self._radix.drop_run(index, end, start)
                yield
            return
        for run, (end, start) in reversed(list(index.runs.items())):
            if _namespace(end) == namespace:
                del index.runs[run]
                self._radix.runs -= 1
                self._radix.drop_run(index, end, start)
                yield


def _namespace(node: IndexNode) -> str:
    above = node
    while above.parent is not None:
        above = above.parent
    assert isinstance(above, NamespaceRoot)
    return above.namespace


def _by_instance(found: dict[InstanceIndex, int], max_tokens: int) -> dict[Instance, Cached]:
    """An engine matches both media from the beginning, and uses the longer match."""
    hbm, dram = dict[Instance, int](), dict[Instance, int]()
    for index, tokens in found.items():
        tokens = min(tokens, max_tokens)
        tokens -= tokens % index.page
        if tokens and index.lives:
            (hbm if index.medium is Medium.HBM else dram)[index.instance] = tokens
    cached = {
        instance: Cached(max(tokens, dram.get(instance, 0)), tokens) for instance, tokens in hbm.items()
    }
    for instance, tokens in dram.items():
        if instance not in cached:
            cached[instance] = Cached(tokens, 0)
    return cached
