"""Compressed bodies, unpacked in steps: a few bytes may stand for gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aiohttp.compression_utils import ZLibDecompressor

from router.errors import BadRequest, UnknownEncoding

# The event loop stands still for the time of one step, a millisecond or two.
_STEP_BYTES = 1 << 20
_KNOWN = "gzip, deflate"
_ALIASES = {"x-gzip": "gzip"}


def content_encoding(headers: Mapping[str, str]) -> str | None:
    """How a body is compressed; None if it is not. Raises UnknownEncoding."""
    given = [value for name, value in headers.items() if name.lower() == "content-encoding"]
    named = ",".join(given).strip().lower()
    encoding = _ALIASES.get(named, named)
    if encoding in ("", "identity"):
        return None
    if encoding not in _KNOWN.split(", "):
        raise UnknownEncoding(f"Content-Encoding {named!r:.40} is unknown here; known: {_KNOWN}", _KNOWN)
    return encoding


class Unpacker:
    """Unpacks the pieces of one body, one after the other."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decompressor: ZLibDecompressor | None = None

    def steps(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` unpacks to, at most 1 MiB at a time; maybe nothing. Raises BadRequest."""
        if not piece:
            return
        if self._decompressor is None:
            # Many clients send deflate without zlib's header, whose first byte ends in 8.
            bare = self._encoding == "deflate" and piece[0] & 0xF != 8
            self._decompressor = ZLibDecompressor(self._encoding, suppress_deflate_header=bare)
        try:
            yield self._decompressor.decompress_sync(piece, _STEP_BYTES)
            while self._decompressor.data_available:
                yield self._decompressor.decompress_sync(b"", _STEP_BYTES)
        except Exception as error:
            # zlib has errors of its own.
            raise BadRequest(f"the body is not {self._encoding}, as its Content-Encoding says") from error
