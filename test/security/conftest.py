"""Attacks over real sockets. `start` and `pd`: a router before mock instances."""

from router_cluster import pd, start

__all__ = ["pd", "start"]
