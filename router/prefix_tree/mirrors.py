"""One tree kept equal to many indexes elsewhere, by their snapshots and events.

What `mempool.index.mirror` does for one index, without the numbers of blocks. What may take long is done in
steps: the caller may let others go first wherever it yields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from mempool.address import Medium, Owner
from mempool.errors import FrameError, MemPoolError
from mempool.index.events import AnyEvent, Cleared, Copied, Moved, Removed, Stored
from mempool.index.tree import NUMBER_BYTES
from router.instances.instance import Instance
from router.prefix_tree.base import Cached
from router.prefix_tree.instance_index import InstanceIndex, PartsRadix, TreeNode, bare, owners_of
from router.prefix_tree.node import TOKEN_BYTES, Root

# What is left to the events of those who are here: a newcomer's snapshot must not push them out.
_LOADED = 0.9


class TreeFull(MemPoolError):
    def __init__(self, most: int) -> None:
        super().__init__(f"the tree has its {most} tokens: a higher --max-tree-size lets it have more")


class Mirrors:
    """Of each instance a part for each medium that is told of, over `max_tokens` tokens at most.

    A part that raised is not what its index is any more: close it, and open it anew with a snapshot. No other
    part is the worse for it.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._radix = PartsRadix()
        self._parts: dict[tuple[Instance, Medium], InstanceIndex] = {}
        self._ended: deque[InstanceIndex] = deque()

    def match(self, namespace: str, key: bytes, most: int) -> dict[Instance, Cached]:
        """What each instance has of the tokens `key`, of the first `most`, in whole pages."""
        root = self._radix.roots.get(namespace)
        if root is None:
            return {}
        path, matched = self._radix.walk(root, key)
        found: dict[InstanceIndex, int] = {}
        end = matched // TOKEN_BYTES
        for node in reversed(path):
            # Who holds a node holds those above: as many parts are the same ones.
            if len(node.held) > len(found):
                for part in node.held:
                    found.setdefault(part, end)
            end = node.end - len(node.key) // TOKEN_BYTES
        return _by_instance(found, most)

    def follows(self, instance: Instance) -> bool:
        """Whether all that it has in HBM is known here."""
        part = self._parts.get((instance, Medium.HBM))
        return part is not None and part.seq is not None and part.lives

    def open(self, instance: Instance, medium: Medium, page: int) -> InstanceIndex:
        """An empty part, in place of the one before. Raises FrameError for pages that nobody has."""
        part = InstanceIndex(instance, medium, page)
        self.close(instance, medium)
        self._parts[instance, medium] = part
        return part

    def close(self, instance: Instance, medium: Medium) -> None:
        """Nothing of it counts any more; `sweep` frees it."""
        part = self._parts.pop((instance, medium), None)
        if part is not None:
            part.end()
            self._ended.append(part)

    def sweep(self) -> Iterator[None]:
        """Frees what was closed."""
        while self._ended:
            yield from self._clear(self._ended[0], None)
            self._ended.popleft()

    def load(self, part: InstanceIndex, stored: Iterable[Stored], seq: int) -> Iterator[None]:
        """A snapshot as of event `seq`. Raises FrameError for one that cannot be true, and TreeFull."""
        most = int(_LOADED * self._max_tokens)
        for one in stored:
            self._store(part, one, most)
            yield
        part.seq = seq

    def apply(self, part: InstanceIndex, event: AnyEvent) -> Iterator[None]:
        """Raises as `load`, and EventGap for an event that is not the next."""
        part.expect(event.seq)
        match event:
            case Stored():
                self._store(part, event, self._max_tokens)
            case Copied():
                self._copy(part, event.run, event.first, event.owner, event.blocks)
            case Moved():
                # The new copy first: a block that nobody has would go.
                count = self._copy(part, event.run, event.first, event.target, event.blocks)
                self._remove(part, event.run, event.first, count, event.source)
            case Removed():
                self._remove(part, event.run, event.first, event.count, event.owner)
            case Cleared():
                yield from self._clear(part, event.namespace)
        part.seq = event.seq
        yield

    def sizes(self) -> dict[str, int]:
        runs = sum(len(part.runs) for part in self._parts.values())
        return {"tokens": self._radix.tokens, "nodes": self._radix.nodes, "runs": runs}

    def _store(self, part: InstanceIndex, stored: Stored, most: int) -> None:
        tokens, page = stored.tokens, part.page * TOKEN_BYTES
        blocks, odd = divmod(len(tokens), page)
        if not blocks or odd or not stored.copies:
            raise FrameError(f"run {stored.run} has no whole blocks, or no owner")
        parent = self._parent(part, stored)
        start = self._start(part, stored, parent)
        before, known = self._radix.walk(parent, tokens[:page])
        if known == page and part in before[-1].held:
            raise FrameError(f"block {stored.first} of run {stored.run} is here already")
        if self._radix.tokens + len(tokens) // TOKEN_BYTES > most:
            raise TreeFull(self._max_tokens)
        owners = 0
        for owner, numbers in stored.copies:
            if len(numbers) != blocks * NUMBER_BYTES or part.bit(owner) & owners:
                raise FrameError(f"{owner} cannot have {blocks} blocks of run {stored.run} as told")
            owners |= part.bit(owner)
        end = self._radix.reach(parent, tokens)
        self._radix.hold(part, parent, end, owners)
        part.runs[stored.run] = end, start

    def _parent(self, part: InstanceIndex, stored: Stored) -> TreeNode:
        if stored.parent_run < 0:
            return self._radix.root(stored.namespace)
        return self._radix.ending(part, stored.parent_run, stored.parent_block + 1)

    @staticmethod
    def _start(part: InstanceIndex, stored: Stored, parent: TreeNode) -> int:
        """Where the run begins: here, or it goes on where it ended."""
        end, start = part.runs.get(stored.run, (None, parent.end))
        goes_on = end is parent and stored.parent_run == stored.run
        if not (end is None or goes_on) or parent.end != start + stored.first * part.page:
            raise FrameError(f"block {stored.first} of run {stored.run} has no place")
        return start

    def _copy(self, part: InstanceIndex, run: int, first: int, owner: Owner, numbers: bytes) -> int:
        count, odd = divmod(len(numbers), NUMBER_BYTES)
        if odd:
            raise FrameError(f"{len(numbers)} bytes are no block numbers")
        bit = part.bit(owner)
        ends = [node for node in self._radix.cut(part, run, first, count) if part.ends_in(node)]
        if any(node.held[part] & bit for node in ends):
            raise FrameError(f"{owner} has block {first} of run {run}, or one after it, already")
        for node in ends:
            node.held[part] |= bit
        return count

    def _remove(self, part: InstanceIndex, run: int, first: int, count: int, owner: Owner) -> None:
        bit, nodes = part.bit(owner), self._radix.cut(part, run, first, count)
        ends = [node for node in nodes if part.ends_in(node)]
        owners = owners_of(ends[0], part)
        # An event is about a node of the index, and all blocks of a node have the same owners.
        if not owners & bit or any(owners_of(node, part) != owners for node in ends):
            raise FrameError(f"{owner} cannot drop block {first} of run {run}, which it does not have")
        if owners != bit:
            for node in ends:
                node.held[part] -= bit
            return
        if not bare(part, nodes):
            raise FrameError(f"{owner} cannot drop block {first} of run {run}: others hang on it")
        (_, start), above = part.runs[run], nodes[-1].parent
        assert above is not None
        self._radix.drop_run(part, nodes[0], above.end)
        if first:
            part.runs[run] = above, start
        else:
            del part.runs[run]

    def _clear(self, part: InstanceIndex, namespace: str | None) -> Iterator[None]:
        """From the last run on: so nothing hangs on what goes."""
        if namespace is None:
            while part.runs:
                _, (end, start) = part.runs.popitem()
                self._radix.drop_run(part, end, start)
                yield
            return
        for run, (end, start) in reversed(list(part.runs.items())):
            if _namespace(end) == namespace:
                del part.runs[run]
                self._radix.drop_run(part, end, start)
                yield


def _namespace(node: TreeNode) -> str:
    above = node
    while above.parent is not None:
        above = above.parent
    assert isinstance(above, Root)
    return above.namespace


def _by_instance(found: dict[InstanceIndex, int], most: int) -> dict[Instance, Cached]:
    """An engine uses the longer of what it has in either medium: both are matched from the beginning."""
    hbm, dram = dict[Instance, int](), dict[Instance, int]()
    for part, tokens in found.items():
        tokens = min(tokens, most)
        tokens -= tokens % part.page
        if tokens and part.lives:
            (hbm if part.medium is Medium.HBM else dram)[part.instance] = tokens
    cached = {one: Cached(max(tokens, dram.get(one, 0)), tokens) for one, tokens in hbm.items()}
    for one, tokens in dram.items():
        if one not in cached:
            cached[one] = Cached(tokens, 0)
    return cached
