"""A radix tree over token bytes, and who holds which part of it. Structure alone: nothing here ages.

A node's key is one bytes object, so a walk is one dict look-up and one memcmp a node (as in the MemPool's
tree). It is cut at any token, not at pages: so instances of different page sizes share it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from router.instances.instance import Instance

TOKEN_BYTES = 4
V = TypeVar("V")


class Holder:
    """An instance, as of one life of its cache. Compared by identity. One that leaves counts for nothing."""

    __slots__ = ("cache_epoch", "instance")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.cache_epoch = instance.cache_epoch

    @property
    def lives(self) -> bool:
        return self.cache_epoch == self.instance.cache_epoch and not self.instance.leaving


H = TypeVar("H", bound=Holder)


class Node(Generic[H, V]):
    """A stretch of tokens, up to `end` tokens from the root, and who holds all of it.

    A holder of a node holds all nodes above it. What is known of each holder is the tree's own affair.
    """

    __slots__ = ("children", "end", "held", "key", "parent")

    def __init__(self, parent: Node[H, V] | None, key: bytes) -> None:
        self.parent = parent
        self.key = key
        self.end: int = 0 if parent is None else parent.end + len(key) // TOKEN_BYTES
        self.children: dict[bytes, Node[H, V]] = {}
        self.held: dict[H, V] = {}


class Root(Node[H, V]):
    __slots__ = ("namespace",)

    def __init__(self, namespace: str) -> None:
        super().__init__(None, b"")
        self.namespace = namespace


class Radix(Generic[H, V]):
    """One root a namespace, there while it has children. `tokens` counts what all keys have together."""

    def __init__(self) -> None:
        self.roots: dict[str, Root[H, V]] = {}
        self.nodes = 0
        self.tokens = 0

    def root(self, namespace: str) -> Root[H, V]:
        return self.roots.get(namespace) or Root(namespace)

    def walk(self, top: Node[H, V], key: bytes) -> tuple[list[Node[H, V]], int]:
        """The nodes that `key` passes below `top`, the last perhaps in part, and how many bytes match."""
        node: Node[H, V] | None = top
        path: list[Node[H, V]] = []
        at = 0
        while node is not None and (node := node.children.get(key[at : at + TOKEN_BYTES])) is not None:
            path.append(node)
            if not key.startswith(node.key, at):
                return path, at + _common(node.key, key, at)
            at += len(node.key)
        return path, at

    def reach(self, top: Node[H, V], key: bytes) -> Node[H, V]:
        """The node that ends where `key`, which is not empty, ends below `top`; made where it is missing."""
        path, matched = self.walk(top, key)
        node, at = path[-1] if path else top, top.end * TOKEN_BYTES + matched
        if at < node.end * TOKEN_BYTES:
            node = self.split(node, at)
        if matched < len(key):
            node = self._attach(node, key[matched:])
        return node

    def split(self, node: Node[H, V], at: int) -> Node[H, V]:
        """Cuts a node `at` bytes from the root. The node stays the suffix; the prefix is returned."""
        parent = node.parent
        assert parent is not None
        cut = at - parent.end * TOKEN_BYTES
        prefix: Node[H, V] = Node(parent, node.key[:cut])
        prefix.held = dict(node.held)
        parent.children[prefix.key[:TOKEN_BYTES]] = prefix
        node.key, node.parent = node.key[cut:], prefix
        prefix.children[node.key[:TOKEN_BYTES]] = node
        self.nodes += 1
        return prefix

    def detach(self, leaf: Node[H, V]) -> None:
        parent = leaf.parent
        assert parent is not None
        assert not leaf.children
        del parent.children[leaf.key[:TOKEN_BYTES]]
        if isinstance(parent, Root) and not parent.children:
            del self.roots[parent.namespace]
        self.nodes -= 1
        self.tokens -= len(leaf.key) // TOKEN_BYTES

    def _attach(self, parent: Node[H, V], key: bytes) -> Node[H, V]:
        node: Node[H, V] = Node(parent, key)
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
