"""Follows the cache events of instances over ZeroMQ, and keeps the prompt tree equal to their caches."""

from router.kv_events.feed_client import FeedTiming
from router.kv_events.feeds import Feeds

__all__ = ["FeedTiming", "Feeds"]
