"""The process's file descriptors, and how many of them clients may take."""

from __future__ import annotations

import resource

# What the process opens for itself: the event loop, threads, logs, tokenizers, name look-ups.
_OWN = 64
# Probes, feeds of events and aborts, of one instance.
_OF_AN_INSTANCE = 8
# A client's connection, and one to each half of a pair.
_OF_A_REQUEST = 3
_FEWEST = 16
# Each may have some 400 KiB on the way that nobody has read yet: more would be a matter of memory.
_MOST = 8192
# Beyond it the kernel's own tables become large, and no router needs so many.
_HIGHEST_LIMIT = 1 << 20


def raise_descriptor_limit() -> None:
    """Raises the process's own limit as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _HIGHEST_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _HIGHEST_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_for(instances: int) -> int:
    """How many clients' connections leave enough descriptors for what goes to so many instances."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    free = soft - _OWN - _OF_AN_INSTANCE * instances
    return min(max(free // _OF_A_REQUEST, _FEWEST), _MOST)
