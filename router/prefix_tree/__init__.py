"""The global prompt tree: which instance has which prefix of tokens.

One tree for all roles: a prompt is walked once, and prefill and decode instances share its nodes. `base` is
what policies see. `response` is the paper's way to know it; `events` knows it from instances' feeds, with
`parts`, a radix tree, and `mirrors`, what events do to that.
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
