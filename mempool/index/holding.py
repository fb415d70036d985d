"""Handles on published copies, with which `swap_out` and `swap_in` move them between media."""

import numpy as np

from mempool.address import Addresses
from mempool.errors import BadAddress
from mempool.index.holder import MAX_RUN_BLOCKS, PLACE_BITS, Holder, Places
from mempool.index.state import IndexState, addresses_of
from mempool.index.tree import Node


class Holding:
    """One owner's copy of neighbouring blocks, at the time of the call that returned it."""

    __slots__ = ("_copy", "holder", "node")

    def __init__(self, node: Node, holder: Holder) -> None:
        self.node = node
        self.holder = holder
        self._copy = node.copies[holder]

    @property
    def addresses(self) -> Addresses:
        return addresses_of(self.holder, [self._copy])

    @property
    def copies(self) -> int:
        """How many owners have these blocks."""
        return len(self.node.copies)

    @property
    def current(self) -> bool:
        """Nothing happened to the copy since: each change, a split too, leaves another object there."""
        return self.node.copies.get(self.holder) is self._copy


def victims(state: IndexState, holder: Holder, blocks: int) -> list[Holding]:
    """Up to `blocks` of a holder's copies, in the order of its queue."""
    queue, taken = state.queues[holder], list[Node]()
    queue.wake_all()
    while blocks > 0 and (node := queue.pop()) is not None:
        if node.pins:
            queue.park(node)
            continue
        if node.blocks > blocks:
            state.split(node, node.blocks - blocks)
        blocks -= node.blocks
        taken.append(node)
    for node in taken:
        queue.push(node)
    return [Holding(node, holder) for node in taken]


def holdings(state: IndexState, addresses: Addresses) -> list[Holding]:
    """As `Index.holdings`."""
    owner, blocks = addresses.owner, addresses.blocks
    holder = state.holders.get(owner)
    if holder is None:
        raise BadAddress(owner, "none of its blocks is published")
    places = holder.places(blocks)
    if (places < 0).any():
        raise BadAddress(owner, f"block {int(blocks[(places < 0).argmax()])} is not published")
    return [holding for row in _rows(places) for holding in _row(state, holder, int(row[0]), len(row))]


def discard(state: IndexState, addresses: Addresses) -> int:
    """As `Index.discard`, before the flush."""
    holder = state.holders.get(addresses.owner)
    if holder is None:
        return 0
    places = holder.places(addresses.blocks)
    published, before = np.sort(places[places >= 0]), holder.blocks
    # A run hangs on older ones: backwards, each block comes before what it hangs on.
    for row in reversed(_rows(published)):
        for holding in reversed(_row(state, holder, int(row[0]), len(row))):
            if holding.node.droppable:
                state.drop(holding.node, holder)
            else:
                state.prune(holding.node)
    return before - holder.blocks


def _rows(places: Places) -> list[Places]:
    """Neighbours of one run together."""
    return np.split(places, np.flatnonzero(np.diff(places) != 1) + 1) if len(places) else []


def _row(state: IndexState, holder: Holder, packed: int, count: int) -> list[Holding]:
    """The holdings of `count` neighbours of one run."""
    run, place = packed >> PLACE_BITS, packed & (MAX_RUN_BLOCKS - 1)
    found, stop = list[Holding](), place + count
    while place < stop:
        node = state.tree.find(run, place)
        assert node is not None
        node = state.cut(node, place - node.first, min(stop - node.first, node.blocks))
        found.append(Holding(node, holder))
        place += node.blocks
    return found


def replace(state: IndexState, holding: Holding, new: Addresses | None) -> bool:
    """As `Index.replace`, before the flush."""
    node, holder = holding.node, holding.holder
    if node.pins or not holding.current:
        return False
    if new is None:
        if not node.droppable:
            return False
        state.drop(node, holder)
        return True
    target = _target(state, holding, new)
    if target is None:
        return False
    state.move(node, holder, target, new.blocks)
    return True


def add_copy(state: IndexState, holding: Holding, new: Addresses) -> bool:
    """As `Index.add_copy`."""
    target = _target(state, holding, new) if holding.current else None
    if target is None:
        return False
    state.copy(holding.node, target, new.blocks)
    return True


def _target(state: IndexState, holding: Holding, new: Addresses) -> Holder | None:
    """The holder of `new`. None: it has a copy of these blocks already."""
    if len(new) != holding.node.blocks:
        raise ValueError(f"{len(new)} blocks given for {holding.node.blocks}")
    target = state.holder(new.owner)
    if target in holding.node.copies:
        return None
    state.require_new(target, new.blocks)
    return target
