"""A radix tree over token bytes, and who used which part of it last. Structure alone: nothing here ages.

A node's key is one bytes object, so a walk is one dict look-up and one memcmp a node (as in the MemPool's
tree). It is cut at any token, not at pages: so instances of different page sizes share it.
"""

from __future__ import annotations

from router.instance import Instance

TOKEN_BYTES = 4


class Holder:
    """An instance, as of one life of its cache. Compared by identity."""

    __slots__ = ("epoch", "instance")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.epoch = instance.epoch

    @property
    def lives(self) -> bool:
        return self.epoch == self.instance.epoch


class Node:
    """A stretch of tokens. `used`: when each holder was last known to have it, seconds.

    A holder of a node holds all nodes above it, and was there as late or later.
    """

    __slots__ = ("children", "end", "key", "parent", "used")

    def __init__(self, parent: Node | None, key: bytes) -> None:
        self.parent = parent
        self.key = key
        self.end: int = 0 if parent is None else parent.end + len(key) // TOKEN_BYTES
        self.children: dict[bytes, Node] = {}
        self.used: dict[Holder, float] = {}


class Root(Node):
    __slots__ = ("namespace",)

    def __init__(self, namespace: str) -> None:
        super().__init__(None, b"")
        self.namespace = namespace


class Radix:
    """One root a namespace, there while it has children. `tokens` counts what all keys have together."""

    def __init__(self) -> None:
        self.roots: dict[str, Root] = {}
        self.nodes = 0
        self.tokens = 0

    def walk(self, namespace: str, key: bytes) -> tuple[list[Node], int]:
        """The nodes that `key` passes, the last perhaps in part, and how many bytes match."""
        node: Node | None = self.roots.get(namespace)
        path: list[Node] = []
        at = 0
        while node is not None and (node := node.children.get(key[at : at + TOKEN_BYTES])) is not None:
            path.append(node)
            if not key.startswith(node.key, at):
                return path, at + _common(node.key, key, at)
            at += len(node.key)
        return path, at

    def reach(self, namespace: str, key: bytes) -> Node:
        """The node that ends where `key` ends, made where it is missing. `key` is not empty."""
        path, matched = self.walk(namespace, key)
        node = path[-1] if path else self.roots.get(namespace) or Root(namespace)
        if matched < node.end * TOKEN_BYTES:
            node = self.split(node, matched)
        if matched < len(key):
            node = self._attach(node, key[matched:])
        return node

    def split(self, node: Node, at: int) -> Node:
        """Cuts a node `at` bytes from the root. The node stays the suffix; the prefix is returned."""
        parent = node.parent
        assert parent is not None
        cut = at - parent.end * TOKEN_BYTES
        prefix = Node(parent, node.key[:cut])
        prefix.used = dict(node.used)
        parent.children[prefix.key[:TOKEN_BYTES]] = prefix
        node.key, node.parent = node.key[cut:], prefix
        prefix.children[node.key[:TOKEN_BYTES]] = node
        self.nodes += 1
        return prefix

    def detach(self, leaf: Node) -> None:
        parent = leaf.parent
        assert parent is not None
        assert not leaf.children
        del parent.children[leaf.key[:TOKEN_BYTES]]
        if isinstance(parent, Root) and not parent.children:
            del self.roots[parent.namespace]
        self.nodes -= 1
        self.tokens -= len(leaf.key) // TOKEN_BYTES

    def _attach(self, parent: Node, key: bytes) -> Node:
        node = Node(parent, key)
        parent.children[key[:TOKEN_BYTES]] = node
        if isinstance(parent, Root):
            self.roots[parent.namespace] = parent
        self.nodes += 1
        self.tokens += len(key) // TOKEN_BYTES
        return node


def _common(part: bytes, key: bytes, at: int) -> int:
    """How many first bytes of `part` are in `key` from `at`, in whole tokens: a few memcmp."""
    low, high = 0, min(len(part), len(key) - at) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if key.startswith(part[low * TOKEN_BYTES : middle * TOKEN_BYTES], at + low * TOKEN_BYTES):
            low = middle
        else:
            high = middle - 1
    return low * TOKEN_BYTES
