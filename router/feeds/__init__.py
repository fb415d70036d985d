"""Follows what instances tell of their caches, over ZeroMQ, and keeps the tree of prompts equal to it."""

from router.feeds.feeds import Feeds
from router.feeds.follower import Timing

__all__ = ["Feeds", "Timing"]
