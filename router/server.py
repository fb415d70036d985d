"""The application on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from router.app import running_app
from router.config import RouterConfig
from router.gate import Gate

# For answers that are complete, and still on their way to the client.
_LAST_BYTES_SECS = 0.5


class CannotListen(Exception):
    """The address to serve on is taken, or not of this machine."""


@asynccontextmanager
async def serving(config: RouterConfig) -> AsyncIterator[asyncio.Task[None]]:
    """Serve while in the block; on leaving it, running requests get the grace period, and new ones get 503.

    Raises CannotListen.
    Gives the task of the health checks: once that is done, they have crashed and the router must end.
    """
    gate = Gate()
    async with running_app(config, gate) as (app, checks):
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=_LAST_BYTES_SECS
        )
        await runner.setup()
        try:
            await _listen(runner, config)
            yield checks
        finally:
            await gate.close(config.shutdown_grace_period_secs)
            await runner.cleanup()


async def _listen(runner: web.AppRunner, config: RouterConfig) -> None:
    address = f"{config.host}:{config.port}"
    try:
        await web.TCPSite(runner, config.host, config.port).start()
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from error
