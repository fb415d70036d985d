"""The radix tree: structure alone, and the copies that nodes carry."""

from collections.abc import Iterator

from mempool.index.holder import Holder
from mempool.index.keys import TOKEN_BYTES, common_bytes

NUMBER_BYTES = 4


class Node:
    """A stretch of whole blocks of one run, shared by all that passes through it.

    `copies`: for each holder the int32 numbers of all `blocks` blocks, as bytes; never empty in the tree.
    `first`: the place of the first block in the run; `end`: blocks from the root to this node's end.
    `pins`: leases on this node or below. `parked`: a queue has set it aside until it may be evicted.
    """

    __slots__ = (
        "blocks",
        "children",
        "copies",
        "end",
        "first",
        "key",
        "parent",
        "parked",
        "pins",
        "run",
        "used",
    )

    def __init__(self, parent: "Node | None", key: bytes, blocks: int, run: int, first: int) -> None:
        self.parent = parent
        self.key = key
        self.blocks = blocks
        self.run = run
        self.first = first
        self.end: int = blocks if parent is None else parent.end + blocks
        self.children: dict[bytes, Node] = {}
        self.copies: dict[Holder, bytes] = {}
        self.used = 0.0
        self.pins = 0
        self.parked = False

    def __lt__(self, other: "Node") -> bool:
        return self.run < other.run

    @property
    def start(self) -> int:
        return self.end - self.blocks

    @property
    def droppable(self) -> bool:
        """One copy may go: another remains, or nothing hangs on it."""
        return not self.children or len(self.copies) > 1


class Root(Node):
    __slots__ = ("namespace",)

    def __init__(self, namespace: str) -> None:
        super().__init__(None, b"", 0, -1, 0)
        self.namespace = namespace


class Tree:
    """One root a namespace, there while it has children.

    A split makes the existing node the suffix, so what holds a node holds its last block. The nodes of one
    run lie in one line, and `deepest` names the last of them: (run, place) finds its node from there.
    """

    def __init__(self, page_size: int) -> None:
        if page_size < 1:
            raise ValueError(f"a page has at least one token, not {page_size}")
        self.page_bytes = page_size * TOKEN_BYTES
        self.roots: dict[str, Root] = {}
        self.deepest: dict[int, Node] = {}
        self.nodes = 0

    def walk(self, namespace: str, key: bytes) -> tuple[list[Node], int]:
        """The nodes that `key` (whole blocks) passes, the last perhaps in part, and how many blocks match."""
        node: Node | None = self.roots.get(namespace)
        path: list[Node] = []
        at, page = 0, self.page_bytes
        while node is not None and (node := node.children.get(key[at : at + page])) is not None:
            path.append(node)
            if not key.startswith(node.key, at):
                return path, (at + common_bytes(node.key, key, at, page)) // page
            at += len(node.key)
        return path, at // page

    def split(self, node: Node, blocks: int) -> Node:
        """Cuts the first `blocks` of a node off into a new parent, which it returns."""
        parent, cut = node.parent, blocks * self.page_bytes
        assert parent is not None
        assert 0 < blocks < node.blocks
        prefix = Node(parent, node.key[:cut], blocks, node.run, node.first)
        prefix.used, prefix.pins = node.used, node.pins
        cut_copies = blocks * NUMBER_BYTES
        prefix.copies = {holder: numbers[:cut_copies] for holder, numbers in node.copies.items()}
        node.copies = {holder: numbers[cut_copies:] for holder, numbers in node.copies.items()}
        parent.children[prefix.key[: self.page_bytes]] = prefix
        node.key, node.parent = node.key[cut:], prefix
        node.blocks -= blocks
        node.first += blocks
        prefix.children[node.key[: self.page_bytes]] = node
        self.nodes += 1
        return prefix

    def attach(self, parent: Node, key: bytes, run: int, first: int) -> Node:
        """A new node without copies yet. Nothing below `parent` starts with its first block."""
        node = Node(parent, key, len(key) // self.page_bytes, run, first)
        parent.children[key[: self.page_bytes]] = node
        if isinstance(parent, Root):
            self.roots[parent.namespace] = parent
        self.deepest[run] = node
        self.nodes += 1
        return node

    def detach(self, leaf: Node) -> None:
        """Takes a leaf out. It keeps its parent, for the leases that still pin the way up."""
        parent = leaf.parent
        assert parent is not None
        assert not leaf.children
        del parent.children[leaf.key[: self.page_bytes]]
        if self.deepest[leaf.run] is leaf:
            if parent.run == leaf.run:
                self.deepest[leaf.run] = parent
            else:
                del self.deepest[leaf.run]
        if isinstance(parent, Root) and not parent.children:
            del self.roots[parent.namespace]
        self.nodes -= 1

    def add_copy(self, node: Node, holder: Holder, numbers: bytes) -> None:
        node.copies[holder] = numbers
        holder.blocks += node.blocks

    def take_copy(self, node: Node, holder: Holder) -> bytes:
        holder.blocks -= node.blocks
        return node.copies.pop(holder)

    def find(self, run: int, place: int) -> Node | None:
        """The node of block `place` of `run`."""
        node = self.deepest.get(run)
        if node is None or place >= node.first + node.blocks:
            return None
        while node.first > place:
            node = node.parent
            if node is None or node.run != run:
                return None
        return node

    def below(self, node: Node) -> list[Node]:
        """The node and all under it, parents before children."""
        found, ahead = [], [node]
        while ahead:
            node = ahead.pop()
            found.append(node)
            ahead.extend(node.children.values())
        return found

    def namespaces(self) -> Iterator[tuple[str, list[Node]]]:
        """All nodes, parents before children."""
        for namespace, root in self.roots.items():
            yield namespace, self.below(root)[1:]
