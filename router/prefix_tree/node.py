"""A radix tree over token bytes, and which caches hold which nodes of it. Nothing here ages.

The key of a node is one bytes object, so a walk takes one dict look-up and one memcmp for each node, as in
the MemPool's tree. Nodes are cut at any token, not at pages: instances of different page sizes share them.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from mempool.index.keys import TOKEN_BYTES, common_bytes
from router.instances.instance import Instance

V = TypeVar("V")

# A namespace takes the memory of so many tokens, and each of its characters that of a token at most.
_ROOT_TOKENS = 128
# Without any names, as requests and as instances have it: there is one such root.
_PLAIN = frozenset({"", "[null,null]"})


class CacheHolder:
    """The cache of an instance, until that cache is lost. Compared by identity."""

    __slots__ = ("cache_epoch", "instance")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.cache_epoch = instance.cache_epoch

    @property
    def lives(self) -> bool:
        return self.cache_epoch == self.instance.cache_epoch and not self.instance.leaving


H = TypeVar("H", bound=CacheHolder)


class TokenNode(Generic[H, V]):
    """Some tokens, up to `end` tokens from the root. `held`: each holder of all of them, and the tree's own
    value.

    A holder of a node holds all nodes above it.
    """

    __slots__ = ("children", "end", "held", "key", "parent")

    def __init__(self, parent: TokenNode[H, V] | None, key: bytes) -> None:
        self.parent = parent
        self.key = key
        self.end: int = 0 if parent is None else parent.end + len(key) // TOKEN_BYTES
        self.children: dict[bytes, TokenNode[H, V]] = {}
        self.held: dict[H, V] = {}


class NamespaceRoot(TokenNode[H, V]):
    """The root of all prompts of one namespace."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: str) -> None:
        super().__init__(None, b"")
        self.namespace = namespace


class TokenRadix(Generic[H, V]):
    """One root for each namespace, as long as it has children.

    `tokens`: in all keys together. `size`: these, and what namespaces take, in the memory of so many tokens.
    """

    def __init__(self) -> None:
        self.roots: dict[str, NamespaceRoot[H, V]] = {}
        self.nodes = 0
        self.tokens = 0
        self._root_tokens = 0

    @property
    def size(self) -> int:
        return self.tokens + self._root_tokens

    def root(self, namespace: str) -> NamespaceRoot[H, V]:
        return self.roots.get(namespace) or NamespaceRoot(namespace)

    def walk(self, top: TokenNode[H, V], key: bytes) -> tuple[list[TokenNode[H, V]], int]:
        """The nodes below `top` that `key` passes, the last perhaps in part, and how many bytes match."""
        node: TokenNode[H, V] | None = top
        path: list[TokenNode[H, V]] = []
        at = 0
        while node is not None and (node := node.children.get(key[at : at + TOKEN_BYTES])) is not None:
            path.append(node)
            if not key.startswith(node.key, at):
                return path, at + common_bytes(node.key, key, at, TOKEN_BYTES)
            at += len(node.key)
        return path, at

    def reach(self, top: TokenNode[H, V], key: bytes) -> TokenNode[H, V]:
        """The node that ends where `key` ends below `top`; nodes are made where they are missing.

        `key` is not empty.
        """
        path, matched = self.walk(top, key)
        node, at = path[-1] if path else top, top.end * TOKEN_BYTES + matched
        if at < node.end * TOKEN_BYTES:
            node = self.split(node, at)
        if matched < len(key):
            node = self._attach(node, key[matched:])
        return node

    def split(self, node: TokenNode[H, V], at: int) -> TokenNode[H, V]:
        """Cuts a node `at` bytes from the root. The node stays the suffix; returns the new prefix."""
        parent = node.parent
        assert parent is not None
        cut = at - parent.end * TOKEN_BYTES
        prefix: TokenNode[H, V] = TokenNode(parent, node.key[:cut])
        prefix.held = dict(node.held)
        parent.children[prefix.key[:TOKEN_BYTES]] = prefix
        node.key, node.parent = node.key[cut:], prefix
        prefix.children[node.key[:TOKEN_BYTES]] = node
        self.nodes += 1
        return prefix

    def detach(self, leaf: TokenNode[H, V]) -> None:
        parent = leaf.parent
        assert parent is not None
        assert not leaf.children
        del parent.children[leaf.key[:TOKEN_BYTES]]
        if isinstance(parent, NamespaceRoot) and not parent.children:
            del self.roots[parent.namespace]
            self._root_tokens -= _root_tokens(parent.namespace)
        self.nodes -= 1
        self.tokens -= len(leaf.key) // TOKEN_BYTES

    def _attach(self, parent: TokenNode[H, V], key: bytes) -> TokenNode[H, V]:
        node: TokenNode[H, V] = TokenNode(parent, key)
        parent.children[key[:TOKEN_BYTES]] = node
        if isinstance(parent, NamespaceRoot) and parent.namespace not in self.roots:
            self.roots[parent.namespace] = parent
            self._root_tokens += _root_tokens(parent.namespace)
        self.nodes += 1
        self.tokens += len(key) // TOKEN_BYTES
        return node


def _root_tokens(namespace: str) -> int:
    return 0 if namespace in _PLAIN else _ROOT_TOKENS + len(namespace)
