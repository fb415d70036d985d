"""`memserve up`: a cluster on this machine, with its router, until told to stop."""

import argparse
import asyncio
import contextlib
import dataclasses
import signal
import sys
import time
from os import environ
from pathlib import Path
from typing import Any

from sglang_memserve.cli.chat import examples, run_chat
from sglang_memserve.cli.output import show
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.config import ClusterConfig, environment_defaults
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.local import LocalCluster, read_model
from sglang_memserve.cluster.logs import claimed
from sglang_memserve.cluster.plan import plan_instances, ports_for, sizes_pool
from sglang_memserve.cluster.spec import ROUTER_KEY_VARIABLES
from sglang_memserve.launch_server import API_KEY_VARIABLE, given
from sglang_memserve.model import ModelInfo

_TOLD_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "up",
        help="a cluster on this machine, with its router",
        description="Starts instances and a router on this machine, watches them, and stops them on Ctrl-C. "
        "Without --prefill, --decode or --colocated: one prefill and one decode instance. They listen on the "
        "loopback, on free ports counted up from the router's. Flags for SGLang follow after `--`.",
        epilog="Each of these can also be set as MEMSERVE_PREFILL, MEMSERVE_PORT and so on; a flag wins.",
    )
    flags = {
        "prefill": (int, "prefill instances"),
        "decode": (int, "decode instances"),
        "colocated": (int, "instances that do both"),
        "model": (str, "a local folder or a hub name (default: the embedded model)"),
        "host": (str, "the router's address (default: {})"),
        "port": (int, "the router's port (default: {})"),
        "api_key": (
            str,
            "what clients must present; better set as MEMSERVE_API_KEY, which `ps` does not show",
        ),
        "log_dir": (Path, "folder for the logs (default: ~/.local/state/memserve/PORT)"),
        "threads": (int, "OpenMP threads of each instance (default: its share of the cores)"),
        "max_total_tokens": (int, "KV pool of each instance, in tokens (default: its share of free memory)"),
        "start_timeout": (float, "seconds until each instance must be ready (default: {:.0f})"),
    }
    defaults = {field.name: field.default for field in dataclasses.fields(ClusterConfig)}
    for name, (kind, text) in flags.items():
        metavar = name.split("_")[-1].upper()
        shown = text.format(defaults[name])
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=shown)
    parser.add_argument(
        "--chat", action="store_true", help="when ready, hold a short chat that shows what caching does"
    )
    parser.add_argument("--exit", action="store_true", help="stop when ready, or after the chat")
    parser.set_defaults(command=run, convert={name: kind for name, (kind, _) in flags.items()})


def run(args: argparse.Namespace, extra: list[str]) -> int:
    """Returns 0 when told to stop, 1 if the cluster cannot start or can serve no more."""
    return asyncio.run(_Up(_config(args, extra), chat=args.chat, leave=args.exit).run())


def _config(args: argparse.Namespace, extra: list[str]) -> ClusterConfig:
    values: dict[str, Any] = {}
    for name, text in environment_defaults(environ).items():
        try:
            values[name] = args.convert[name](text)
        except ValueError:
            raise ClusterError(f"MEMSERVE_{name.upper()}={text} is not a number") from None
    values |= {name: value for name in args.convert if (value := getattr(args, name)) is not None}
    if given(extra, "--api-key"):
        raise ClusterError("--api-key after `--`: give it before, so that the router knows it too")
    config = ClusterConfig(**values, extra=tuple(extra))
    foreign = [name for name in (*ROUTER_KEY_VARIABLES, API_KEY_VARIABLE) if name in environ]
    if foreign and not config.api_key:
        raise ClusterError(f"{foreign[0]} is set: set MEMSERVE_API_KEY for the whole cluster instead")
    return config


class _Up:
    """One run of the command."""

    def __init__(self, config: ClusterConfig, *, chat: bool, leave: bool) -> None:
        self._config = config
        self._chat = chat
        self._leave = leave
        self._began = time.monotonic()
        self._cluster: LocalCluster | None = None
        self._stopping = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        work = asyncio.create_task(self._work())
        for number in _TOLD_TO_STOP:
            # nohup's, which is to outlive the terminal
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._told_to_stop, work)
        try:
            await work
        except asyncio.CancelledError:
            return 0
        except ClusterError:
            return 1
        return 0

    def _told_to_stop(self, work: asyncio.Task[None]) -> None:
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
                held.enter_context(claimed(config.logs, config.port))
                session = await held.enter_async_context(probe.client(config.api_key))
                ports = held.enter_context(ports_for(config))
                instances = plan_instances(config, await self._model(), ports)
                self._cluster = LocalCluster(config, instances, session, self._say)
                await self._serve(self._cluster)
            except ClusterError as error:
                show(f"memserve: {error}", sys.stderr)
                raise
            finally:
                self._stopping = True
                if self._cluster:
                    await self._cluster.stop()

    async def _model(self) -> ModelInfo | None:
        """None if nothing hangs on it. The embedded model is made here, not by all instances at once."""
        config = self._config
        if config.model is not None and not sizes_pool(config):
            return None
        return await read_model(config.model, config.start_timeout)

    async def _serve(self, cluster: LocalCluster) -> None:
        self._say("memserve", f"logs in {self._config.logs}")
        await cluster.start()
        self._say("memserve", f"serving on {cluster.url}")
        async with _while_here(asyncio.create_task(cluster.watch())) as watching:
            if self._chat:
                await run_chat(cluster.url, self._config.api_key)
            if not self._leave:
                show(examples(cluster.url, keyed=bool(self._config.api_key)))
                await watching

    def _say(self, who: str, what: str) -> None:
        show(f"[{time.monotonic() - self._began:6.1f} s] {who:<11} {what}")


@contextlib.asynccontextmanager
async def _while_here(task: asyncio.Task[None]) -> Any:
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
