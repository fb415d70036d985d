"""The paper's mode: what an instance has is inferred from what it answered, and doubted after a while."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from router.instances.instance import Instance
from router.prefix_tree.base import Cached
from router.prefix_tree.node import TOKEN_BYTES, Holder, Node, Radix
from router.prompt.request import TokenArray

# Every insertion clears away a few old entries: a bounded share of the work, and more than it adds.
_AT_ONCE = 32
# So many tokens an entry's bookkeeping weighs.
_ENTRY_TOKENS = 64

_Node = Node[Holder, float]
"""`held` says when each holder was last known to have it, seconds: above it as late or later."""


class ResponseTree:
    """Entries count for `ttl` seconds from their last use, and the oldest go when there are `max_tokens`.

    It knows no evictions, and takes all to be in HBM. `max_tokens` may be exceeded for a few insertions.
    """

    def __init__(self, ttl: float, max_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._max_tokens = max_tokens
        self._clock = clock
        self._radix: Radix[Holder, float] = Radix()
        self._holders: dict[Instance, Holder] = {}
        self._log: deque[tuple[float, Holder, _Node]] = deque()
        self._last = -math.inf

    def match(self, tokens: TokenArray, namespace: str) -> dict[Instance, Cached]:
        root = self._radix.roots.get(namespace)
        if root is None:
            return {}
        path, matched = self._radix.walk(root, tokens.tobytes())
        horizon = self._clock() - self._ttl
        found: dict[Holder, int] = {}
        end = matched // TOKEN_BYTES
        for node in reversed(path):
            # Who holds a node holds those above: as many holders are the same ones.
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
        """Clears away a few entries whose time is over, as an insertion does."""
        self._prune(self._clock() - self._ttl)

    def sizes(self) -> dict[str, int]:
        return {"tokens": self._radix.tokens, "nodes": self._radix.nodes, "entries": len(self._log)}

    def _now(self) -> float:
        """Later than any time before: entries go in the order in which they came."""
        self._last = max(self._clock(), math.nextafter(self._last, math.inf))
        return self._last

    def _holder(self, instance: Instance) -> Holder:
        holder = self._holders.get(instance)
        if holder is None or not holder.lives:
            holder = self._holders[instance] = Holder(instance)
        return holder

    def _prune(self, horizon: float) -> None:
        log, most = self._log, self._max_tokens
        for _ in range(_AT_ONCE):
            full = self._radix.tokens > most or len(log) > most // _ENTRY_TOKENS + 1
            if not log or (log[0][0] > horizon and not full):
                return
            self._forget(*log.popleft())

    def _forget(self, time: float, holder: Holder, node: _Node) -> None:
        while (parent := node.parent) is not None and node.held.get(holder, math.inf) <= time:
            self._take(node, holder)
            node = parent

    def _take(self, node: _Node, holder: Holder) -> None:
        del node.held[holder]
        if not node.held:
            self._radix.detach(node)


def _in_pages(found: dict[Holder, int], most: int) -> dict[Instance, Cached]:
    pages = {}
    for holder, tokens in found.items():
        tokens = min(tokens, most)
        tokens -= tokens % holder.instance.page_size
        if tokens and holder.lives:
            pages[holder.instance] = Cached(tokens, tokens)
    return pages
