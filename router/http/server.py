"""The application on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from router.config.settings import RouterConfig
from router.http.app import running_app
from router.http.connection import ClientRunner
from router.http.reload import Reloads
from router.http.services import SERVICES
from router.http.shutdown import GracefulShutdown
from router.http.tls import BACKLOG, TlsSite
from router.metrics import scraped_app
from router.protocol.tls import ServerTls

# For complete answers that the client has not read yet.
_LAST_BYTES_SECS = 0.5


class CannotListen(Exception):
    """The address to serve on is taken, or is not this machine's."""


@asynccontextmanager
async def serving(config: RouterConfig, reloads: Reloads | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """Serve while in the block; on leaving it, running requests get the grace period, and new ones get 503.

    Raises CannotListen, and ConfigError for a --profile, --tenants or certificates that cannot be read.
    `reloads` gets what may be read again.
    Gives the task of the health checks: once that is done, they have crashed and the router must end.
    """
    shutdown, reloads = GracefulShutdown(), Reloads() if reloads is None else reloads
    tls = None
    if config.tls_cert_path:
        tls = ServerTls(config.tls_cert_path, config.tls_key_path)
        reloads.add("the router's certificate", tls.reload)
    async with running_app(config, shutdown, reloads) as (app, checks), AsyncExitStack() as stack:
        services = app[SERVICES]
        runner = ClientRunner(
            app, services.admission, config, handler_cancellation=True, shutdown_timeout=_LAST_BYTES_SECS
        )
        if config.prometheus_port is not None:
            page_app = scraped_app(services.metrics)
            page = ClientRunner(page_app, services.admission, config, shutdown_timeout=0)
            stack.push_async_callback(page.cleanup)
            await _listen(page, config.prometheus_host or config.host, config.prometheus_port)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(shutdown.drain, config.shutdown_grace_period_secs)
        await _listen(runner, config.host, config.port, tls)
        yield checks


async def _listen(runner: web.AppRunner, host: str, port: int, tls: ServerTls | None = None) -> None:
    await runner.setup()
    if tls is None:
        site: web.BaseSite = web.TCPSite(runner, host, port, backlog=BACKLOG)
    else:
        site = TlsSite(runner, host, port, tls)
    try:
        await site.start()
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
