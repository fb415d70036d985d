"""`memserve chat`: a chat with the model behind a router, and what caching did after each turn."""

import argparse
import asyncio
import contextlib
import importlib
import sys
from typing import Any

import aiohttp

from sglang_memserve.cli.address import RouterAddress, add_router, router_of
from sglang_memserve.cli.chat_turn import Turn, chat_turn, kv_bytes_received, summary
from sglang_memserve.cli.output import show, show_styled
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import AdminKeyNeeded, ClusterError, UsageError

_HELP = "/clear begins anew, /quit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "chat",
        help="chat with the model behind a router",
        description="Chats with the model behind a router. After each turn it shows the time to the first "
        f"token, how many tokens of the prompt were cached, and how much KV moved. {_HELP}.",
    )
    add_router(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--max-tokens", type=int, default=512, help="maximum length of an answer (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="(default: %(default)s)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Chats until /quit, the end of the input, or Ctrl-C at the prompt. Raises ClusterError."""
    address = router_of(args)
    if args.max_tokens < 1:
        raise UsageError(f"--max-tokens {args.max_tokens}: must be a number greater than 0")
    if not args.temperature >= 0:
        raise UsageError(f"--temperature {args.temperature}: must be a number from 0 up")
    with asyncio.Runner() as runner:
        chat = runner.run(Chat.begin(address, args))
        try:
            _loop(chat, runner)
        finally:
            runner.run(chat.close())
    return 0


def _loop(chat: "Chat", runner: asyncio.Runner) -> None:
    interactive = sys.stdin.isatty()
    if interactive:
        # Importing it gives `input` a history and editing keys.
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")
        show(_HELP)
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            show("")
            return
        match line:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/clear":
                chat.clear()
            case _ if line.startswith("/"):
                show(f"{line}: there is no such command; {_HELP}")
            case _:
                _answer(chat, runner, line)


def _answer(chat: "Chat", runner: asyncio.Runner, question: str) -> None:
    """One turn. Ctrl-C stops the answer, and the question is taken back."""
    try:
        turn, moved = runner.run(chat.ask(question))
    except KeyboardInterrupt:
        show("\n(stopped)")
    except UsageError:
        raise
    except ClusterError as error:
        show(f"\n{error}", sys.stderr)
    else:
        show("")
        show_styled([(summary(turn, moved), "dim")])


class Chat:
    """A conversation: its messages, and the router that answers them."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        router: str,
        *,
        system: str | None,
        max_tokens: int,
        temperature: float,
    ) -> None:
        self._session = session
        self._router = router
        self._begin = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._begin)
        self._max_tokens = max_tokens
        self._temperature = temperature

    @classmethod
    async def begin(cls, address: RouterAddress, args: argparse.Namespace) -> "Chat":
        """Raises ClusterError if no router answers there."""
        router, key, tls = address
        session = probe.client(key, tls)
        try:
            probe.worker_list(await probe.ask(session, f"{router}/workers"))
        except AdminKeyNeeded:
            # A router, and it knows this key.
            pass
        except ClusterError:
            await session.close()
            raise
        return cls(
            session, router, system=args.system, max_tokens=args.max_tokens, temperature=args.temperature
        )

    async def ask(self, question: str) -> tuple[Turn, int | None]:
        """Prints the answer as it comes. Returns the turn, and the bytes of KV that moved for it.

        A turn that fails, or is cancelled, leaves the messages as they were. Raises ClusterError.
        """
        messages = [*self._messages, {"role": "user", "content": question}]
        before = await kv_bytes_received(self._session, self._router)
        turn = await chat_turn(
            self._session,
            self._router,
            messages,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            on_text=lambda text: show(text, end=""),
        )
        after = await kv_bytes_received(self._session, self._router)
        self._messages = [*messages, {"role": "assistant", "content": turn.answer}]
        return turn, after - before if before is not None and after is not None else None

    def clear(self) -> None:
        """Begins a new conversation."""
        self._messages = list(self._begin)

    async def close(self) -> None:
        await self._session.close()
