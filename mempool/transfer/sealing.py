"""Messages of the block channel under the key of a ticket, by AES-GCM.

A nonce is never used twice under a key: it has what is encrypted (a header, a payload, an answer) and a
number. The sender numbers the messages of a ticket from 0 on, over whatever connection they go. An answer has
the number of its message, and each message is answered once.

A header is authenticated with its ticket, its number, its place among the messages of the connection, and the
tag of its payload: neither goes with another.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from mempool import wire
from mempool.errors import FrameError
from mempool.transports.base import Buffer

_NONCE = struct.Struct("<IQ")
_NAMED = struct.Struct("<QQ")


class _Domain(IntEnum):
    HEADER = 0
    PAYLOAD = 1
    ANSWER = 2


class MessageSealer:
    """The sender's end of a ticket."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AES(key)
        self._box = AESGCM(key)
        self._next = 0

    def seal(
        self, message: wire.OfTicket, blocks: Sequence[Buffer] = (), into: memoryview | None = None
    ) -> wire.Sealed:
        """The message in its box. What `blocks` has is written to `into`, encrypted."""
        number, self._next = self._next, self._next + 1
        tag = b"" if into is None else self._encrypt(number, blocks, into)
        nonce, named = _NONCE.pack(_Domain.HEADER, number), _named(message.ticket, message.seq, tag)
        box = self._box.encrypt(nonce, wire.encode(message), named)
        return wire.Sealed(message.ticket, message.seq, number, box, tag)

    def open_answer(self, sealed: wire.Sealed) -> wire.Answer:
        """Raises FrameError for what its receiver did not say."""
        answer = wire.decode_answer(_opened(self._box, _Domain.ANSWER, sealed))
        _require_same(sealed, answer)
        return answer

    def _encrypt(self, number: int, blocks: Sequence[Buffer], into: memoryview) -> bytes:
        context = Cipher(self._cipher, GCM(_NONCE.pack(_Domain.PAYLOAD, number))).encryptor()
        at = 0
        for part in blocks:
            end = at + memoryview(part).nbytes
            context.update_into(part, into[at:end])
            at = end
        context.finalize()
        return context.tag


class PayloadOpener:
    """Decrypts the payload of a message, part after part."""

    def __init__(self, cipher: AES, number: int, tag: bytes) -> None:
        self._context = Cipher(cipher, GCM(_NONCE.pack(_Domain.PAYLOAD, number))).decryptor()
        self._tag = tag

    def open(self, parts: Sequence[memoryview], count: int) -> None:
        """The next `count` bytes, which `parts` begin with, in place."""
        for part in parts:
            if not count:
                return
            piece = part[:count]
            self._context.update_into(piece, piece)
            count -= len(piece)

    def open_frames(self, frames: Sequence[Buffer]) -> memoryview:
        """All of it, at a place of its own: the frames may be another's memory."""
        opened = memoryview(bytearray(sum(memoryview(frame).nbytes for frame in frames)))
        at = 0
        for frame in frames:
            at += self._context.update_into(frame, opened[at:])
        self.verify()
        return opened

    def verify(self) -> None:
        """Raises FrameError where what was decrypted is not, to the last byte, what the sender encrypted."""
        try:
            self._context.finalize_with_tag(self._tag)
        except (InvalidTag, ValueError) as error:
            raise FrameError("the payload is not what the holder of the ticket's key sent") from error


class MessageOpener:
    """The receiver's end of a ticket. It opens each message once, in the order in which they were sealed."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AES(key)
        self._box = AESGCM(key)
        self._next = 0

    def open(self, sealed: wire.Sealed) -> wire.OfTicket:
        """Raises FrameError for what the sender did not say, or said before."""
        message = wire.decode_of_ticket(_opened(self._box, _Domain.HEADER, sealed))
        _require_same(sealed, message)
        # A sender whose connection broke says on another that it gave up. Messages on the first may be lost.
        lost = sealed.number - self._next
        if lost < 0 or (lost and not isinstance(message, wire.Fail)):
            raise FrameError(f"message {sealed.number} of the ticket where message {self._next} was due")
        return message

    def accept(self, sealed: wire.Sealed) -> None:
        """The opened message is the sender's: it is not opened again, and is to be answered once."""
        self._next = sealed.number + 1

    def payload(self, sealed: wire.Sealed) -> PayloadOpener:
        return PayloadOpener(self._cipher, sealed.number, sealed.payload_tag)

    def seal_answer(self, sealed: wire.Sealed, answer: wire.Answer) -> wire.Sealed:
        nonce, named = _NONCE.pack(_Domain.ANSWER, sealed.number), _named(sealed.ticket, sealed.seq)
        box = self._box.encrypt(nonce, wire.encode(answer), named)
        return wire.Sealed(sealed.ticket, sealed.seq, sealed.number, box)


def _named(ticket: int, seq: int, payload_tag: bytes = b"") -> bytes:
    return _NAMED.pack(ticket, seq) + payload_tag


def _opened(box: AESGCM, domain: _Domain, sealed: wire.Sealed) -> bytes:
    named = _named(sealed.ticket, sealed.seq, sealed.payload_tag)
    try:
        return box.decrypt(_NONCE.pack(domain, sealed.number), sealed.box, named)
    except InvalidTag as error:
        raise FrameError("a message that the holder of the ticket's key did not send") from error


def _require_same(sealed: wire.Sealed, message: wire.OfTicket | wire.Answer) -> None:
    if (sealed.ticket, sealed.seq) != (message.ticket, message.seq):
        raise FrameError("an encrypted message that is another than it says")
