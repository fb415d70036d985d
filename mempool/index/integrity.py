"""What must hold of an index at all times."""

from collections import Counter

from mempool.index.holder import PLACE_BITS, Holder
from mempool.index.leases import LeaseTable
from mempool.index.state import IndexState, numbers_of
from mempool.index.tree import NUMBER_BYTES, Node


def check(state: IndexState, leases: LeaseTable) -> None:
    """Raises AssertionError where the state contradicts itself."""
    nodes = [node for _, below in state.tree.namespaces() for node in below]
    assert len(nodes) == state.tree.nodes
    assert all(root.children for root in state.tree.roots.values())
    queued = {holder: queue.nodes() for holder, queue in state.queues.items()}
    for node in nodes:
        _check_links(state, node)
        _check_copies(node)
        assert all(node in queued[holder] for holder in node.copies)
    _check_runs(state, nodes)
    _check_pins(nodes, leases)
    counts: Counter[Holder] = Counter()
    for node in nodes:
        counts.update(dict.fromkeys(node.copies, node.blocks))
    assert {holder: holder.blocks for holder in state.holders.values() if holder.blocks} == counts
    assert all(holder.recorded == holder.blocks for holder in state.holders.values())


def _check_links(state: IndexState, node: Node) -> None:
    page = state.tree.page_bytes
    assert node.parent is not None
    assert node.parent.children[node.key[:page]] is node
    assert len(node.key) == node.blocks * page > 0
    assert node.start == node.parent.end
    assert node.used <= node.parent.used or node.parent.run < 0
    assert state.tree.find(node.run, node.first) is node


def _check_copies(node: Node) -> None:
    assert node.copies
    for holder, copy in node.copies.items():
        assert len(copy) == node.blocks * NUMBER_BYTES
        first = (node.run << PLACE_BITS) + node.first
        assert holder.places(numbers_of(copy)).tolist() == list(range(first, first + node.blocks))


def _check_runs(state: IndexState, nodes: list[Node]) -> None:
    deepest: dict[int, Node] = {}
    for node in nodes:
        deepest[node.run] = max(deepest.get(node.run, node), node, key=lambda node: node.first)
    assert state.tree.deepest == deepest


def _check_pins(nodes: list[Node], leases: LeaseTable) -> None:
    pins: Counter[Node] = Counter()
    live = leases.live()
    assert len(live) == leases.count
    for lease in live:
        above = lease.node
        while above is not None:
            pins[above] += 1
            above = above.parent
    assert all(node.pins == pins[node] for node in nodes)
