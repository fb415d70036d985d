"""Follows what instances tell of their caches, over ZeroMQ, and keeps the tree of prompts equal to it."""

from router.kv_events.feed_client import Timing
from router.kv_events.feeds import Feeds

__all__ = ["Feeds", "Timing"]
