"""How blocks get into the index."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mempool.address import Addresses, BlockNumbers, merged
from mempool.errors import BadAddress
from mempool.index.holder import MAX_RUN_BLOCKS, PLACE_BITS, Holder, Places
from mempool.index.state import IndexState, numbers_of
from mempool.index.tree import NUMBER_BYTES, Node, Root


class InsertResult(NamedTuple):
    """`adopted` blocks are the index's now; `returned` ones are the caller's still, to be freed."""

    adopted: list[Addresses]
    returned: list[Addresses]


def insert(
    state: IndexState,
    namespace: str,
    key: bytes,
    addresses: Sequence[Addresses],
    now: float,
) -> InsertResult:
    """As `Index.insert`."""
    parts = merged(addresses)
    total, given = len(key) // state.tree.page_bytes, sum(len(part) for part in parts)
    path, known = state.tree.walk(namespace, key)
    at = total - given
    _require_connected(at, known, total)
    _require_insertable(state, path, at, parts)
    inserted = _sorted_out(state, path, at, known, parts)
    for node in path:
        node.used = now
    parent: Node | None = None
    for part in parts:
        holder, stop, blocks = state.holder(part.owner), at + len(part), part.blocks
        if at < known:
            _copy_known(state, path, at, holder, blocks[: known - at])
            blocks, at = blocks[known - at :], min(known, stop)
        if at < stop:
            if parent is None:
                parent = _ending_at(state, namespace, path, at)
            new_key = key[at * state.tree.page_bytes : stop * state.tree.page_bytes]
            parent = state.publish(parent, new_key, holder, blocks, now)
            at = stop
    return inserted


def _sorted_out(
    state: IndexState, path: list[Node], at: int, known: int, parts: list[Addresses]
) -> InsertResult:
    """What is to be adopted and what returned, before anything changes."""
    if at >= known:
        return InsertResult(parts, [])
    adopted, returned = list[Addresses](), list[Addresses]()
    for part in parts:
        holder = state.holder(part.owner)
        for node, low, high in _overlaps(path, at, min(at + len(part), known)):
            given = part.blocks[low - at : high - at]
            copy = node.copies.get(holder)
            if copy is None:
                adopted.append(Addresses(part.owner, given))
                continue
            held = copy[(low - node.start) * NUMBER_BYTES : (high - node.start) * NUMBER_BYTES]
            if held != given.tobytes():
                returned.append(Addresses(part.owner, given[given != numbers_of(held)]))
        if at + len(part) > known:
            adopted.append(part[max(known - at, 0) :])
        at += len(part)
    return InsertResult(merged(adopted), merged(returned))


def _copy_known(state: IndexState, path: list[Node], at: int, holder: Holder, blocks: BlockNumbers) -> None:
    """Blocks of positions `at` and on, all on the path: a copy where the holder has none."""
    for node, low, high in _overlaps(path, at, at + len(blocks)):
        if holder not in node.copies:
            node = state.cut(node, low - node.start, high - node.start)
            state.copy(node, holder, blocks[low - at : high - at])


def _overlaps(path: list[Node], at: int, stop: int) -> Iterator[tuple[Node, int, int]]:
    """The nodes that positions `at` to `stop` lie in, and which of them, as of when it comes to the node."""
    for node in path:
        low, high = max(at, node.start), min(stop, node.end)
        if low < high:
            yield node, low, high


def _ending_at(state: IndexState, namespace: str, path: list[Node], at: int) -> Node:
    """The node whose last block is block `at` - 1 of the path: cuts before may have moved the path's last."""
    if not path:
        return state.tree.roots.get(namespace) or Root(namespace)
    last = path[-1]
    if last.end == at:
        return last
    if last.start < at:
        return state.split(last, at - last.start)
    assert last.parent is not None
    return last.parent


def _require_connected(at: int, known: int, total: int) -> None:
    if at < 0:
        raise ValueError(f"{total - at} blocks given for tokens of {total} whole blocks")
    if known < at:
        raise ValueError(f"{at - known} blocks before the first of these {total - at} are not indexed")
    if total >= MAX_RUN_BLOCKS:
        raise ValueError(f"{total} blocks in one sequence, fewer than {MAX_RUN_BLOCKS} are allowed")


def _require_insertable(state: IndexState, path: list[Node], at: int, parts: list[Addresses]) -> None:
    """Raises BadAddress for a block that is named twice, or published and not at this very position."""
    for part in parts:
        published = state.holder(part.owner).places(part.blocks)
        taken = published >= 0
        if np.count_nonzero(taken):
            wrong = taken & (published != _places(path, at, len(part)))
            if np.count_nonzero(wrong):
                block = int(part.blocks[wrong.argmax()])
                raise BadAddress(part.owner, f"block {block} is published already, for other tokens")
        at += len(part)
    for owner in {part.owner for part in parts} if len(parts) > 2 else ():
        apart = [part.blocks for part in parts if part.owner == owner]
        state.holder(owner).places(np.concatenate(apart))


def _places(path: list[Node], at: int, count: int) -> Places:
    """The packed places of the blocks at `count` positions, -1 beyond the path."""
    places = np.full(count, -1, dtype=np.int64)
    for node, low, high in _overlaps(path, at, at + count):
        first = (node.run << PLACE_BITS) + node.first + low - node.start
        places[low - at : high - at] = np.arange(first, first + high - low)
    return places
