"""The mode of arXiv 2406.17565, section 6: what an instance has is inferred from its answers, and expires."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from mempool.index.keys import TOKEN_BYTES
from router.instances.instance import Instance
from router.prefix_tree.base import Cached
from router.prefix_tree.node import CacheHolder, TokenNode, TokenRadix
from router.prompt.request import TokenArray

# Every insertion removes a few old entries: bounded work, and more than it adds.
_PRUNED_AT_ONCE = 32
# The bookkeeping of an entry takes the memory of so many tokens.
_ENTRY_TOKENS = 64

_Node = TokenNode[CacheHolder, float]
"""`held`: when each holder was last known to have it, in seconds; never later than in the nodes above."""


class ResponseTree:
    """Entries count for `ttl` seconds from their last use. The oldest go when there are `max_tokens` tokens.

    The tree hears of no evictions, and takes everything to be in HBM. A few insertions may exceed
    `max_tokens`. `clock`: seconds, monotonic.
    """

    def __init__(self, ttl: float, max_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._max_tokens = max_tokens
        self._clock = clock
        self._radix: TokenRadix[CacheHolder, float] = TokenRadix()
        self._holders: dict[Instance, CacheHolder] = {}
        self._log: deque[tuple[float, CacheHolder, _Node]] = deque()
        self._last = -math.inf

    def match(self, tokens: TokenArray, namespace: str) -> dict[Instance, Cached]:
        root = self._radix.roots.get(namespace)
        if root is None:
            return {}
        path, matched = self._radix.walk(root, tokens.tobytes())
        horizon = self._clock() - self._ttl
        found: dict[CacheHolder, int] = {}
        end = matched // TOKEN_BYTES
        for node in reversed(path):
            # A holder of a node holds those above it: equal counts mean the same holders.
            if len(node.held) > len(found):
                for holder, used in node.held.items():
                    if used > horizon:
                        found.setdefault(holder, end)
            end = node.end - len(node.key) // TOKEN_BYTES
        return _in_pages(found, len(tokens) - 1)

    def stored(self, instance: Instance, tokens: TokenArray, namespace: str) -> None:
        key = tokens[: len(tokens) - len(tokens) % instance.page_size].tobytes()
        if not key:
            return
        now, holder = self._now(), self._holder(instance)
        node = self._radix.reach(self._radix.root(namespace), key)
        self._log.append((now, holder, node))
        while node.parent is not None:
            node.held[holder] = now
            node = node.parent
        self._prune(now - self._ttl)

    def age(self) -> None:
        """Removes a few entries that have expired, as an insertion does."""
        self._prune(self._clock() - self._ttl)

    def sizes(self) -> dict[str, int]:
        return {"tokens": self._radix.tokens, "nodes": self._radix.nodes, "entries": len(self._log)}

    def _now(self) -> float:
        """Later than any time before, so that entries expire in the order in which they came."""
        self._last = max(self._clock(), math.nextafter(self._last, math.inf))
        return self._last

    def _holder(self, instance: Instance) -> CacheHolder:
        holder = self._holders.get(instance)
        if holder is None or not holder.lives:
            holder = self._holders[instance] = CacheHolder(instance)
        return holder

    def _prune(self, horizon: float) -> None:
        log, max_tokens = self._log, self._max_tokens
        for _ in range(_PRUNED_AT_ONCE):
            full = self._radix.size > max_tokens or len(log) > max_tokens // _ENTRY_TOKENS + 1
            if not log or (log[0][0] > horizon and not full):
                return
            self._forget(*log.popleft())

    def _forget(self, time: float, holder: CacheHolder, node: _Node) -> None:
        while (parent := node.parent) is not None and node.held.get(holder, math.inf) <= time:
            self._take(node, holder)
            node = parent

    def _take(self, node: _Node, holder: CacheHolder) -> None:
        del node.held[holder]
        if not node.held:
            self._radix.detach(node)


def _in_pages(found: dict[CacheHolder, int], max_tokens: int) -> dict[Instance, Cached]:
    pages = {}
    for holder, tokens in found.items():
        tokens = min(tokens, max_tokens)
        tokens -= tokens % holder.instance.page_size
        if tokens and holder.lives:
            pages[holder.instance] = Cached(tokens, tokens)
    return pages
