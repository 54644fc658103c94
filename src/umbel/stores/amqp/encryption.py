"""TLS between a dialogue and a socket that several threads use: bytes in, bytes out, no waiting."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from umbel.stores.amqp.tls import make_context

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Encryption"]

_READ_SIZE = 65536


class Encryption:
    """One side of a TLS connection; the handshake goes on with what is encrypted and decrypted first.

    One thread at a time. Raises ssl.SSLError, an OSError, when the other side cannot be trusted or understood.
    """

    def __init__(self, options: Mapping[str, Any], host: str) -> None:
        context, name = make_context(options, host)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._unsent = bytearray()  #: what the socket did not take
        self._plain = bytearray()  #: what waits for the handshake
        self._shaken = False

    @property
    def has_output(self) -> bool:
        """Whether there is something to write."""
        return bool(self._unsent) or self._outgoing.pending > 0

    def encrypt(self, plain: bytearray) -> bytearray:
        """What to write to the socket so that the other side reads this."""
        self._plain += plain
        self._go_on()
        unsent, self._unsent = self._unsent, bytearray()
        unsent += self._outgoing.read()
        return unsent

    def put_back(self, rest: bytearray) -> None:
        """The socket did not take all of it."""
        rest += self._unsent
        self._unsent = rest

    def decrypt(self, data: bytes) -> bytes:
        """What the other side wrote."""
        self._incoming.write(data)
        self._go_on()
        pieces = []
        while self._shaken:
            try:
                piece = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                break
            if not piece:
                raise ssl.SSLEOFError("the server ended the encrypted connection")
            pieces.append(piece)
        return b"".join(pieces)

    def _go_on(self) -> None:
        if not self._shaken:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return
            self._shaken = True
        if self._plain:
            self._tls.write(self._plain)
            self._plain = bytearray()
