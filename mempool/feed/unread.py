"""What a feed has sent and its followers have not read yet."""

import zmq

# Whatever is smaller lies in the sockets' own queues, which are short.
LARGE_BYTES = 64 << 10
# The largest snapshot, with as much again for others at the same time.
MAX_UNREAD_BYTES = 512 << 20


class UnreadReplies:
    """Bounds the large replies that wait to be read: one to each follower, and `max_bytes` in all.

    A reply that is larger by itself goes out alone. `size`: bytes that were unread at the last `look`, and
    what was added since. `dropped` counts requests that got no reply for that.
    """

    def __init__(self, max_bytes: int = MAX_UNREAD_BYTES) -> None:
        self.dropped = 0
        self.size = 0
        self._max_bytes = max_bytes
        self._unread: dict[bytes, tuple[zmq.MessageTracker, int]] = {}

    def look(self) -> None:
        """Forgets what was read. Once a turn: there may be thousands."""
        if self._unread:
            self._unread = {follower: kept for follower, kept in self._unread.items() if not kept[0].done}
            self.size = sum(size for _, size in self._unread.values())

    def admits(self, follower: bytes) -> bool:
        """Whether the follower may get a reply: it has read the last large one, and there is room."""
        return self.size < self._max_bytes and follower not in self._unread

    def has_room_for(self, size: int) -> bool:
        """Whether a large reply of that size may be sent."""
        return not self.size or self.size + size <= self._max_bytes

    def add(self, follower: bytes, size: int, tracker: zmq.MessageTracker) -> None:
        self._unread[follower] = tracker, size
        self.size += size
