"""The radix tree of what instances report: which blocks end where, for blocks of any size."""

from __future__ import annotations

from collections.abc import Iterable

from mempool.address import Medium, Owner
from mempool.errors import FrameError
from mempool.index.events import MAX_OWNERS, EventGap
from mempool.index.keys import TOKEN_BYTES
from router.instances.instance import Instance
from router.prefix_tree.node import CacheHolder, TokenNode, TokenRadix

_CHILDREN_BITS = 32
_CHILDREN = (1 << _CHILDREN_BITS) - 1
_MAX_PAGE_TOKENS = 1 << 16
# What a node takes without its tokens, and a run of an index, in the memory of so many tokens.
_NODE_TOKENS = 128
_RUN_TOKENS = 48


class InstanceIndex(CacheHolder):
    """What one medium of an instance has, as one feed reports it, in pages of `page` tokens.

    `runs`: for each run the node in which it ends, and how many tokens come before the run; a run comes after
    the one that it hangs on. `seq`: the last event that was applied; None: not all of the index is here.
    """

    __slots__ = ("_owners", "medium", "page", "runs", "seq")

    def __init__(self, instance: Instance, medium: Medium, page: int) -> None:
        """Raises FrameError for an impossible page size."""
        super().__init__(instance)
        if not 0 < page <= _MAX_PAGE_TOKENS:
            raise FrameError(f"pages of {page} tokens")
        self.medium = medium
        self.page = page
        self.runs: dict[int, tuple[IndexNode, int]] = {}
        self.seq: int | None = None
        self._owners: dict[Owner, int] = {}

    def end(self) -> None:
        """The index does not count any more."""
        self.cache_epoch = -1

    def expect(self, seq: int) -> None:
        """Raises EventGap unless this event is the next. `seq` stays None until the event was applied."""
        expected, self.seq = None if self.seq is None else self.seq + 1, None
        if seq != expected:
            raise EventGap(expected, seq)

    def reached(self, seq: int) -> None:
        """All up to this event is here."""
        self.seq = seq

    def bit(self, owner: Owner) -> int:
        """The bit of this owner. Raises FrameError for too many owners."""
        bit = self._owners.get(owner)
        if bit is None:
            if len(self._owners) == MAX_OWNERS:
                raise FrameError(f"{owner} is one owner more than the {MAX_OWNERS} of an index")
            bit = self._owners[owner] = 1 << (_CHILDREN_BITS + len(self._owners))
        return bit

    def ends_in(self, node: IndexNode) -> bool:
        """Whether one of its blocks ends there. Blocks that begin alike may share nodes without an end."""
        return node.end - node.end % self.page > node.end - len(node.key) // TOKEN_BYTES


IndexNode = TokenNode[InstanceIndex, int]
"""`held`: for each index, how many children it holds as well, and above that count a bit for each owner of
the blocks that end here. All blocks of an index that end in a node have the same owners. Where no block ends,
the bits mean nothing.
"""


class IndexRadix(TokenRadix[InstanceIndex, int]):
    """An index holds the nodes of its blocks, and no others. A node that no index holds is removed.

    `runs`: those of all indexes together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    @property
    def size(self) -> int:
        """With what nodes and runs take, however few tokens they have."""
        return self.tokens + self._root_tokens + self.nodes * _NODE_TOKENS + self.runs * _RUN_TOKENS

    def split(self, node: IndexNode, at: int) -> IndexNode:
        prefix = super().split(node, at)
        prefix.held = {index: value & ~_CHILDREN | 1 for index, value in node.held.items()}
        return prefix

    def hold(self, index: InstanceIndex, top: IndexNode, end: IndexNode, owners: int) -> None:
        """Holds the nodes below `top` down to `end`, for new blocks of these owners."""
        node, grown = end, 0
        while node is not top:
            value = node.held.get(index)
            node.held[index] = (owners if value is None else value) + grown
            if value is not None:
                return
            grown = 1
            assert node.parent is not None
            node = node.parent
        if top.parent is not None:
            top.held[index] += 1

    def drop(self, index: InstanceIndex, node: IndexNode) -> None:
        """Drops a node of which the index holds no child."""
        parent = node.parent
        assert parent is not None
        del node.held[index]
        if parent.parent is not None:
            parent.held[index] -= 1
        if not node.held:
            self.detach(node)

    def drop_run(self, index: InstanceIndex, end: IndexNode, start: int) -> None:
        """Drops a run on which no other of the index hangs. What other runs share with it stays."""
        node = end
        while node.end > start and not children_of(node, index):
            assert node.parent is not None
            self.drop(index, node)
            node = node.parent

    def ending(self, index: InstanceIndex, run: int, blocks: int) -> IndexNode:
        """The node that ends with the first `blocks` of a run. Raises FrameError unless these are there."""
        node, start = index.runs.get(run, (None, 0))
        at = start + blocks * index.page
        if node is None or not start < at <= node.end:
            raise FrameError(f"block {blocks - 1} of run {run} is unknown")
        while (parent := node.parent) is not None and parent.end >= at:
            node = parent
        return node if node.end == at else self.split(node, at * TOKEN_BYTES)

    def cut(self, index: InstanceIndex, run: int, first: int, count: int) -> list[IndexNode]:
        """The nodes of exactly these blocks of a run, the deepest first. Raises FrameError as `ending`."""
        if not count:
            raise FrameError(f"no block of run {run} is named")
        node = self.ending(index, run, first + count)
        start, nodes = index.runs[run][1] + first * index.page, list[IndexNode]()
        while node.end > start:
            nodes.append(node)
            assert node.parent is not None
            node = node.parent
        if node.end < start:
            self.split(nodes[-1], start * TOKEN_BYTES)
        return nodes


def children_of(node: IndexNode, index: InstanceIndex) -> int:
    return node.held[index] & _CHILDREN


def owners_of(node: IndexNode, index: InstanceIndex) -> int:
    return node.held[index] & ~_CHILDREN


def bare(index: InstanceIndex, nodes: Iterable[IndexNode]) -> bool:
    """Whether no other block hangs on the blocks of these nodes: one above the other, the deepest first.

    A node in which no block ends may be shared by blocks that begin alike, and stays.
    """
    gone = False
    for node in nodes:
        left = children_of(node, index) - gone
        if left and index.ends_in(node):
            return False
        gone = not left
    return True
