"""The global prompt tree: which instance has which prefix of tokens.

One tree for all roles: a prompt is walked once, and prefill and decode instances share its nodes. `base` is
what policies see, `response` the paper's way to know it.
"""

from router.trees.base import NOTHING, Cached, PromptTree
from router.trees.response import ResponseTree

__all__ = ["NOTHING", "Cached", "PromptTree", "ResponseTree"]
