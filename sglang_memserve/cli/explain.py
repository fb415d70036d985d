"""`memserve explain`: where a prompt would go now, what each choice would cost, and why."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import Any

from router.protocol.tls import ClientTls
from sglang_memserve.cli.address import add_router, router_of
from sglang_memserve.cli.output import aligned, show, show_table
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import ask, client

_COLUMNS = ("", "role", "url", "cached", "in HBM", "charged")
_TIMES = ("queue", "fetch", "exec", "send", "decode", "total")
_WAYS = {
    "route": "route to where the KV is",
    "fetch": "fetch KV from another instance",
    "recompute": "compute all of it",
}
_PRICES = ("queue_ms", "fetch_ms", "exec_ms", "sending_ms", "decoding_ms", "total_ms")


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="how a router would route a prompt, and why",
        description="Asks a router how it would route a prompt now. Nothing goes to the instances. Times are "
        "predicted, in ms. A * marks the chosen instances.",
    )
    parser.add_argument("prompt", help="the text")
    parser.add_argument("--chat", action="store_true", help="take it as the first message of a chat")
    parser.add_argument(
        "--max-tokens", type=int, default=128, help="maximum length of the answer (default: %(default)s)"
    )
    add_router(parser, "print the record as JSON instead of a table")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Prints the decision. Raises ClusterError if the router gives none."""
    router, key, tls = router_of(args, administers=True)
    record = asyncio.run(explain(router, body_of(args.prompt, args.chat, args.max_tokens), key, tls))
    if args.json:
        show(json.dumps(record, indent=2))
    else:
        show_table(cells(record), {"*": "bold green"})
        show(f"\n{summary(record)}")
    return 0


def body_of(prompt: str, chat: bool, max_tokens: int) -> dict[str, Any]:
    """The request to explain."""
    if chat:
        return {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    return {"text": prompt, "sampling_params": {"max_new_tokens": max_tokens}}


async def explain(
    router: str, body: dict[str, Any], api_key: str | None = None, tls: ClientTls | None = None
) -> dict[str, Any]:
    """The router's record of a decision about `body`. Raises ClusterError."""
    async with client(api_key, tls) as session:
        record = await ask(session, f"{router}/explain", body)
    candidates = record.get("candidates") if isinstance(record, dict) else None
    if not isinstance(candidates, list) or not all(isinstance(candidate, dict) for candidate in candidates):
        raise ClusterError(f"{router}/explain gave no decision: {str(record)[:200]}")
    return {**record}


def cells(record: dict[str, Any]) -> list[Sequence[str]]:
    """Headings, and a line for each candidate; times in ms."""
    chosen = (record.get("prefill"), record.get("decode"))
    lines = [_line(candidate, candidate.get("url") in chosen) for candidate in record["candidates"]]
    return [(*_COLUMNS, *_TIMES), *lines]


def table(record: dict[str, Any]) -> str:
    """The candidates in plain text."""
    return aligned(cells(record))


def _line(candidate: dict[str, Any], chosen: bool) -> list[str]:
    price = candidate.get("cost") or {}
    counts = (candidate.get(name) for name in ("cached_tokens", "cached_tokens_in_hbm", "charged_tokens"))
    return [
        "*" if chosen else "",
        str(candidate.get("role")),
        str(candidate.get("url")),
        *("-" if count is None else f"{count:,}" for count in counts),
        *("-" if price.get(name) is None else f"{price[name]:,.1f}" for name in _PRICES),
    ]


def summary(record: dict[str, Any]) -> str:
    """Which instances were chosen, and for what."""
    tokens, prefill, decode = (record.get(name) for name in ("prompt_tokens", "prefill", "decode"))
    known = "" if record.get("tokenised") else "about "
    pair = f"{prefill} prefills and {decode} decodes" if prefill else f"{decode} does both"
    lines = [
        f"prompt: {known}{tokens} tokens{', matched by text' if record.get('by_text') else ''}",
        f"{record.get('policy')}: {pair}, decided in {record.get('decision_us')} us",
    ]
    first: dict[str, Any] = next(
        (candidate for candidate in record["candidates"] if candidate.get("url") == (prefill or decode)), {}
    )
    if how := _WAYS.get(str((first.get("cost") or {}).get("plan"))):
        fetch = record.get("fetch")
        lines.append(f"by: {how}{_fetched(fetch) if isinstance(fetch, dict) else ''}")
    return "\n".join(lines)


def _fetched(fetch: dict[str, Any]) -> str:
    source, tokens, deadline_ms = (fetch.get(name) for name in ("source", "tokens", "deadline_ms"))
    return f": {tokens} tokens from {source}, within {deadline_ms} ms"
