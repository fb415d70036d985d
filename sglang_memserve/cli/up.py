"""`memserve up`: a cluster on this machine, with its router, until a signal stops it."""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from os import environ
from typing import Any

from mempool.security.cluster_key import ClusterKey, ClusterKeyError
from router.protocol.tls import ClientTls, pinned
from sglang_memserve.cli.demo import examples, run_chat
from sglang_memserve.cli.engine import PUT_AFTER, require_engine
from sglang_memserve.cli.output import show
from sglang_memserve.cli.progress import Progress
from sglang_memserve.cli.up_config import EXAMPLE, add_settings, read
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.config import ROLES, ClusterConfig
from sglang_memserve.cluster.errors import ClusterError, UsageError, exit_status
from sglang_memserve.cluster.local import LocalCluster, read_model
from sglang_memserve.cluster.logs import claimed
from sglang_memserve.cluster.plan import plan_instances, ports_for, sizes_pool
from sglang_memserve.cluster.sglang_flags import check_flags
from sglang_memserve.model import ModelInfo, resolve_model

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "up",
        help="a cluster on this machine, with its router",
        description="Starts instances and a router on this machine, watches them, and stops them on Ctrl-C.\n"
        "Without --prefill, --decode or --colocated: one prefill and one decode instance. They listen on\n"
        "the loopback, on free ports counted up from the router's. Flags of SGLang go after `--`.",
        epilog=f"{EXAMPLE}\n\nA flag wins over the environment (MEMSERVE_PREFILL, MEMSERVE_PORT and so on),\n"
        "the environment over the cluster file.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        passed_on=PUT_AFTER,
    )
    add_settings(parser)
    parser.add_argument(
        "--chat", action="store_true", help="when ready, hold a short chat that shows what caching does"
    )
    parser.add_argument("--exit", action="store_true", help="stop when ready, or after the chat")
    parser.set_defaults(command=run, passes_on=True)


def run(args: argparse.Namespace, extra: list[str]) -> int:
    """Returns 0 after a signal, 1 if the cluster cannot start or can serve no more, 2 for a wrong value."""
    require_engine("memserve up")
    config = read(args, extra, environ)
    if config.model is not None:
        resolve_model(config.model)
    return asyncio.run(_Up(config, chat=args.chat, leave=args.exit).run())


class _Up:
    """One run of the command."""

    def __init__(self, config: ClusterConfig, *, chat: bool, leave: bool) -> None:
        self._config = config
        self._chat = chat
        self._leave = leave
        self._began = time.monotonic()
        self._cluster: LocalCluster | None = None
        self._stopping = False
        self._progress = Progress()
        self._key = config.admin_api_key or config.api_key
        self._tls: ClientTls | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        work = asyncio.create_task(self._work())
        for number in _STOP_SIGNALS:
            # under nohup, which outlives the terminal
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, work)
        try:
            await work
        except asyncio.CancelledError:
            return 0
        except ClusterError as error:
            return exit_status(error)
        return 0

    def _on_signal(self, work: asyncio.Task[None]) -> None:
        if not self._stopping:
            self._stopping = True
            work.cancel()
            self._say("memserve", "stopping; once more to kill all at once")
        elif self._cluster:
            self._cluster.kill()

    async def _work(self) -> None:
        config = self._config
        async with contextlib.AsyncExitStack() as held:
            try:
                for role in ROLES:
                    await check_flags(config.args_of(role), config.start_timeout)
                held.enter_context(claimed(config.logs, config.port))
                session = await held.enter_async_context(probe.client(config.api_key))
                self._tls = pinned(config.router.get("tls_cert_path"))
                asking = await held.enter_async_context(probe.client(self._key, self._tls))
                ports = held.enter_context(ports_for(config))
                key = _cluster_key(config)
                instances = plan_instances(config, await self._model(), ports, key)
                self._cluster = LocalCluster(
                    config, instances, session, self._say, router_session=asking, cluster_key=key
                )
                await self._serve(self._cluster)
            except ClusterError as error:
                show(f"memserve: {error}", sys.stderr)
                raise
            finally:
                self._stopping = True
                if self._cluster:
                    await self._cluster.stop()

    async def _model(self) -> ModelInfo | None:
        """None if nothing depends on it. The embedded model is made here, not by all instances at once."""
        config = self._config
        if config.model is not None and not sizes_pool(config):
            return None
        return await read_model(config.model, config.start_timeout)

    async def _serve(self, cluster: LocalCluster) -> None:
        self._say("memserve", f"logs in {self._config.logs}")
        async with self._progress.shown():
            await cluster.start()
        self._say("memserve", f"serving on {cluster.url}")
        async with _while_here(asyncio.create_task(cluster.watch())) as watching:
            if self._chat:
                await run_chat(cluster.url, self._key, self._tls)
            if not self._leave:
                show(examples(cluster.url, keyed=bool(self._config.api_key)))
                await watching

    def _say(self, name: str, what: str) -> None:
        if name != "memserve":
            self._progress.note(name, what)
        show(f"[{time.monotonic() - self._began:6.1f} s] {name:<11} {what}")


def _cluster_key(config: ClusterConfig) -> ClusterKey:
    """A new one, unless one is given. Raises UsageError."""
    try:
        given = ClusterKey.from_environment(file=config.cluster_key_file or "")
    except ClusterKeyError as error:
        raise UsageError(str(error)) from None
    return given or ClusterKey.generate()


@contextlib.asynccontextmanager
async def _while_here(task: asyncio.Task[None]) -> Any:
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
