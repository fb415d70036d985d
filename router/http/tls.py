"""Connections over TLS, from where they are accepted until their handshake is done."""

from __future__ import annotations

import asyncio
import logging
import socket

from aiohttp import web

from router.protocol.tls import ServerTls

logger = logging.getLogger(__name__)

# A handshake costs a client milliseconds. What takes longer holds a descriptor and some memory for nothing.
HANDSHAKE_SECS = 5.0
MAX_HANDSHAKES = 256
# A client that says no goodbye is not waited for, as without TLS.
_GOODBYE_SECS = 0.5
# Clients that connect in one moment: the kernel drops what goes beyond, and they try again a second later.
BACKLOG = 4096
# Where no descriptor is left: until a connection ends.
_PAUSE_SECS = 0.05


class TlsSite(web.BaseSite):
    """Hands connections to the runner's server once their handshake is done.

    asyncio's own server bounds the time of each handshake, not their number. Here the oldest gives way.
    """

    __slots__ = ("_address", "_handshakes", "_listening", "_tls")

    def __init__(self, runner: web.AppRunner, host: str, port: int, tls: ServerTls) -> None:
        super().__init__(runner)
        self._address = host, port
        self._tls = tls
        self._listening: dict[socket.socket, asyncio.Task[None]] = {}
        self._handshakes: dict[asyncio.Task[None], None] = {}

    @property
    def name(self) -> str:
        host, port = self._address
        return f"https://{host}:{port}"

    async def start(self) -> None:
        """Raises OSError where it cannot listen."""
        await super().start()
        host, port = self._address
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((family, address[:2]) for family, *_, address in found):
            listener = socket.create_server(address, family=family, backlog=BACKLOG)
            listener.setblocking(False)
            self._listening[listener] = asyncio.create_task(self._accept(listener))

    async def stop(self) -> None:
        """Accepts nothing more. Connections whose handshake is done stay."""
        tasks = [*self._listening.values(), *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listening:
            listener.close()
        self._listening.clear()
        await super().stop()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue
            except OSError as error:
                logger.warning("cannot accept connections: %s", error.strerror or error)
                await asyncio.sleep(_PAUSE_SECS)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._shake_hands(accepted))
            self._handshakes[task] = None
            task.add_done_callback(self._forget)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        server = self._runner.server
        assert server is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                server,
                accepted,
                ssl=self._tls.context,
                ssl_handshake_timeout=HANDSHAKE_SECS,
                ssl_shutdown_timeout=_GOODBYE_SECS,
            )
        except (OSError, EOFError) as error:
            # ssl's errors are OSErrors.
            logger.debug("a TLS handshake failed: %r", error)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
