"""The global prompt tree: which instance has which prefix of tokens.

One tree serves all roles: a prompt is walked once, and prefill and decode instances share its nodes. `base`:
what policies see. `response`: the paper's mode, from answers alone. `events`: from instances' feeds, with
`instance_index` (the radix tree) and `mirrors` (what events change in it).
"""

from router.prefix_tree.base import NOTHING, Cached, PromptTree
from router.prefix_tree.events import EventTree
from router.prefix_tree.instance_index import InstanceIndex
from router.prefix_tree.mirrors import Mirrors, TreeFull
from router.prefix_tree.response import ResponseTree

__all__ = [
    "NOTHING",
    "Cached",
    "EventTree",
    "InstanceIndex",
    "Mirrors",
    "PromptTree",
    "ResponseTree",
    "TreeFull",
]
