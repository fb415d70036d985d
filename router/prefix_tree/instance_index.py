"""The radix tree of what instances tell: whose blocks end where, in blocks of any size."""

from __future__ import annotations

from collections.abc import Iterable

from mempool.address import Medium, Owner
from mempool.errors import FrameError
from mempool.index.events import EventGap
from router.instances.instance import Instance
from router.prefix_tree.node import TOKEN_BYTES, Holder, Node, Radix

_CHILDREN_BITS = 32
_CHILDREN = (1 << _CHILDREN_BITS) - 1
# An index has the media of its own instance; those of a few others if it keeps their addresses.
_MOST_OWNERS = 64
_MOST_PAGE_TOKENS = 1 << 16


class InstanceIndex(Holder):
    """What one medium of an instance has: the index that one feed tells of, in pages of `page` tokens.

    `runs`: the node in which each run ends, and how many tokens come before it; a run comes after the one
    that it hangs on. `seq`: the event that the index had come to; None: not all of it is here.
    """

    __slots__ = ("_owners", "medium", "page", "runs", "seq")

    def __init__(self, instance: Instance, medium: Medium, page: int) -> None:
        """Raises FrameError for pages that nobody has."""
        super().__init__(instance)
        if not 0 < page <= _MOST_PAGE_TOKENS:
            raise FrameError(f"pages of {page} tokens")
        self.medium = medium
        self.page = page
        self.runs: dict[int, tuple[TreeNode, int]] = {}
        self.seq: int | None = None
        self._owners: dict[Owner, int] = {}

    def end(self) -> None:
        """It does not count any more."""
        self.cache_epoch = -1

    def expect(self, seq: int) -> None:
        """Raises EventGap unless this event is the next. `seq` stays None if what it says is refused."""
        expected, self.seq = None if self.seq is None else self.seq + 1, None
        if seq != expected:
            raise EventGap(expected, seq)

    def bit(self, owner: Owner) -> int:
        """Raises FrameError for more owners than an index has."""
        bit = self._owners.get(owner)
        if bit is None:
            if len(self._owners) == _MOST_OWNERS:
                raise FrameError(f"{owner} is one owner more than the {_MOST_OWNERS} of an index")
            bit = self._owners[owner] = 1 << (_CHILDREN_BITS + len(self._owners))
        return bit

    def ends_in(self, node: TreeNode) -> bool:
        """Whether a block of it ends there: not in a node within a page that several blocks begin alike."""
        return node.end - node.end % self.page > node.end - len(node.key) // TOKEN_BYTES


TreeNode = Node[InstanceIndex, int]
"""`held`: how many children each part holds as well, and above that a bit for each owner of the blocks that
end here. All blocks of a part that end in a node have the same owners; where none ends the bits mean nothing.
"""


class PartsRadix(Radix[InstanceIndex, int]):
    """A part holds the nodes of its blocks, and no others. A node that nobody holds is gone."""

    def split(self, node: TreeNode, at: int) -> TreeNode:
        prefix = super().split(node, at)
        prefix.held = {part: value & ~_CHILDREN | 1 for part, value in node.held.items()}
        return prefix

    def hold(self, part: InstanceIndex, top: TreeNode, end: TreeNode, owners: int) -> None:
        """The nodes below `top` down to `end`, of new blocks of these owners."""
        node, grown = end, 0
        while node is not top:
            value = node.held.get(part)
            node.held[part] = (owners if value is None else value) + grown
            if value is not None:
                return
            grown = 1
            assert node.parent is not None
            node = node.parent
        if top.parent is not None:
            top.held[part] += 1

    def drop(self, part: InstanceIndex, node: TreeNode) -> None:
        """A node of which the part holds no child."""
        parent = node.parent
        assert parent is not None
        del node.held[part]
        if parent.parent is not None:
            parent.held[part] -= 1
        if not node.held:
            self.detach(node)

    def drop_run(self, part: InstanceIndex, end: TreeNode, start: int) -> None:
        """All of a run that nothing of the part hangs on; what other runs share with it stays."""
        node = end
        while node.end > start and not children_of(node, part):
            assert node.parent is not None
            self.drop(part, node)
            node = node.parent

    def ending(self, part: InstanceIndex, run: int, blocks: int) -> TreeNode:
        """The node that ends with the first `blocks` of a run. Raises FrameError unless these are there."""
        node, start = part.runs.get(run, (None, 0))
        at = start + blocks * part.page
        if node is None or not start < at <= node.end:
            raise FrameError(f"block {blocks - 1} of run {run} is unknown")
        while (parent := node.parent) is not None and parent.end >= at:
            node = parent
        return node if node.end == at else self.split(node, at * TOKEN_BYTES)

    def cut(self, part: InstanceIndex, run: int, first: int, count: int) -> list[TreeNode]:
        """Nodes of exactly these blocks of a run, the deepest first. Raises FrameError as `ending`."""
        if not count:
            raise FrameError(f"no block of run {run} is named")
        node = self.ending(part, run, first + count)
        start, nodes = part.runs[run][1] + first * part.page, list[TreeNode]()
        while node.end > start:
            nodes.append(node)
            assert node.parent is not None
            node = node.parent
        if node.end < start:
            self.split(nodes[-1], start * TOKEN_BYTES)
        return nodes


def children_of(node: TreeNode, part: InstanceIndex) -> int:
    return node.held[part] & _CHILDREN


def owners_of(node: TreeNode, part: InstanceIndex) -> int:
    return node.held[part] & ~_CHILDREN


def bare(part: InstanceIndex, nodes: Iterable[TreeNode]) -> bool:
    """Whether nothing hangs on the blocks of these nodes, one above the other and the deepest first.

    Blocks that begin alike share a node in which none of them ends: that one may stay.
    """
    gone = False
    for node in nodes:
        left = children_of(node, part) - gone
        if left and part.ends_in(node):
            return False
        gone = not left
    return True
