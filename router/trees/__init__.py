"""The global prompt tree: which instance has which prefix of tokens.

One tree for all roles: a prompt is walked once, and prefill and decode instances share its nodes. `base` is
what policies see. `response` is the paper's way to know it; `events` knows it from instances' feeds, with
`parts`, a radix tree, and `mirrors`, what events do to that.
"""

from router.trees.base import NOTHING, Cached, PromptTree
from router.trees.events import EventTree
from router.trees.mirrors import Mirrors, TreeFull
from router.trees.parts import Part
from router.trees.response import ResponseTree

__all__ = [
    "NOTHING",
    "Cached",
    "EventTree",
    "Mirrors",
    "Part",
    "PromptTree",
    "ResponseTree",
    "TreeFull",
]
