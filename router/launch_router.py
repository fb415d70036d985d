"""`python -m router.launch_router`: serve until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from router.admission.descriptors import raise_descriptor_limit
from router.config.flags import parse
from router.config.settings import ConfigError, RouterConfig
from router.http.reload import Reloads
from router.http.server import CannotListen, serving

logger = logging.getLogger("router.launch_router")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a signal, 1 for a crash or a taken address, 2 for a wrong configuration."""
    try:
        config = parse(sys.argv[1:] if argv is None else argv, os.environ)
    except ConfigError as error:
        print(f"router: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if config.ignored_flags:
        flags = ", ".join(config.ignored_flags)
        logger.warning("without effect here: %s (docs/guides/from-sglang-router.md)", flags)
    raise_descriptor_limit()
    try:
        code: int = uvloop.run(serve(config))
    except ConfigError as error:
        print(f"router: {error}", file=sys.stderr)
        return 2
    except CannotListen as error:
        print(f"router: {error}", file=sys.stderr)
        return 1
    return code


async def serve(config: RouterConfig) -> int:
    """Serve until SIGINT or SIGTERM (0), or a crash of the health checks (1). Raises as `serving`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping(number: int) -> None:
        # The next signal of either kind acts as if there were no handler: it ends the process.
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        logger.info("stopping on %s", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping, number)
    if config.api_key and not config.admin_api_key:
        logger.warning("every client's key adds and removes instances too: --admin-api-key keeps that apart")
    if not any(config.urls()):
        logger.warning("no instances yet (--prefill and --decode, or --worker-urls): POST /workers adds some")
    reloads = Reloads()
    async with serving(config, reloads) as checks:
        checks.add_done_callback(lambda _: stop.set())
        _tune_garbage_collection()
        # Without files to read, SIGHUP ends the router, as a terminal that closes expects.
        if reloads:
            loop.add_signal_handler(signal.SIGHUP, reloads.run)
        scheme = "https" if config.tls_cert_path else "http"
        logger.info("listening on %s://%s:%d", scheme, config.host, config.port)
        await stop.wait()
        crashed = checks.done()
    if crashed:
        logger.error("stopped: health checks crashed; start the router again")
    return int(crashed)


def _tune_garbage_collection() -> None:
    """By default the collector holds up all requests for 2 to 6 ms, and a full collection for 100 ms."""
    gc.collect()
    # Modules and the like stay: no need to go through them again.
    gc.freeze()
    # Cycles that requests leave die young. A larger first generation leaves little to the others.
    gc.set_threshold(5000, 20, 50)


if __name__ == "__main__":
    sys.exit(main())
