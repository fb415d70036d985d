"""HTTP/1.1 as far as a benchmark needs it: a full client or server would cost more than the router does."""

from dataclasses import dataclass

_HEAD_END = b"\r\n\r\n"


class WireError(Exception):
    """The other side sent something that is not HTTP/1.1. The message says what."""


@dataclass(slots=True)
class Reader:
    """Reads one message; `feed` it what arrives. What follows the message stays in `rest`."""

    head: bytes = b""
    body: bytes = b""
    complete: bool = False
    rest: bytes = b""
    _left: int | None = None  # bytes to come of the body, or of its current chunk with the line end
    _chunked: bool = False

    def feed(self, data: bytes) -> None:
        """Raises WireError."""
        self.rest += data
        if not self.head and not self._read_head():
            return
        if self._chunked:
            self._read_chunks()
        else:
            self._read_plain()

    def _read_head(self) -> bool:
        end = self.rest.find(_HEAD_END)
        if end < 0:
            return False
        self.head, self.rest = self.rest[:end].lower(), self.rest[end + len(_HEAD_END) :]
        self._chunked = b"\r\ntransfer-encoding: chunked" in self.head
        if not self._chunked:
            self._left = int(self._header(b"content-length") or 0)
        return True

    def _header(self, name: bytes) -> bytes | None:
        start = self.head.find(b"\r\n" + name + b":")
        if start < 0:
            return None
        return self.head[start + len(name) + 3 :].split(b"\r\n", 1)[0].strip()

    def _read_plain(self) -> None:
        assert self._left is not None
        self.body += self.rest[: self._left]
        taken = min(self._left, len(self.rest))
        self.rest = self.rest[taken:]
        self._left -= taken
        self.complete = self._left == 0

    def _read_chunks(self) -> None:
        while not self.complete:
            line, found, after = self.rest.partition(b"\r\n")
            if not found:
                return
            size = _chunk_size(line)
            if len(after) < size + 2:
                return
            self.body += after[:size]
            self.rest = after[size + 2 :]
            self.complete = size == 0


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.split(b";", 1)[0], 16)
    except ValueError:
        raise WireError(f"a chunk of size {line[:40]!r}") from None


def status(head: bytes) -> int:
    """Of a response. Raises WireError."""
    try:
        return int(head[9:12])
    except ValueError:
        raise WireError(f"no HTTP response: {head[:80]!r}") from None


def request(path: str, body: bytes, host: str) -> bytes:
    """A POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{_describing(body, 'application/json')}"
    return head.encode() + body


def response(code: int, body: bytes, content_type: str = "application/json") -> bytes:
    """A whole answer."""
    return f"HTTP/1.1 {code} -\r\n{_describing(body, content_type)}".encode() + body


def _describing(body: bytes, content_type: str) -> str:
    return f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
