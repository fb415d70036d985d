"""`memserve explain`: where a prompt would go now, what each choice would cost, and why."""

import argparse
import asyncio
import json
from typing import Any

from sglang_memserve.cli.asking import add_router, router_of
from sglang_memserve.cli.output import aligned, show
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
        description="Asks a router how it would route a prompt now; nothing is sent to the instances. Times "
        "are predicted, in ms. A * is beside the chosen ones.",
    )
    parser.add_argument("prompt", help="the text")
    parser.add_argument("--chat", action="store_true", help="as the first message of a chat")
    parser.add_argument("--max-tokens", type=int, default=128, help="of the answer (default: %(default)s)")
    add_router(parser, "print the record as JSON instead of a table")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Prints the decision. Raises ClusterError if the router does not tell one."""
    router, key = router_of(args)
    record = asyncio.run(explain(router, body_of(args.prompt, args.chat, args.max_tokens), key))
    show(json.dumps(record, indent=2) if args.json else f"{table(record)}\n\n{summary(record)}")
    return 0


def body_of(prompt: str, chat: bool, most: int) -> dict[str, Any]:
    """The request that is asked about."""
    if chat:
        return {"messages": [{"role": "user", "content": prompt}], "max_tokens": most}
    return {"text": prompt, "sampling_params": {"max_new_tokens": most}}


async def explain(router: str, body: dict[str, Any], api_key: str | None = None) -> dict[str, Any]:
    """The router's record of a decision about `body`. Raises ClusterError."""
    async with client(api_key) as session:
        record = await ask(session, f"{router}/explain", body)
    candidates = record.get("candidates") if isinstance(record, dict) else None
    if not isinstance(candidates, list) or not all(isinstance(one, dict) for one in candidates):
        raise ClusterError(f"{router}/explain gave no decision: {str(record)[:200]}")
    return {**record}


def table(record: dict[str, Any]) -> str:
    """A line for each candidate; times in ms."""
    chosen = (record.get("prefill"), record.get("decode"))
    lines = [_line(one, one.get("url") in chosen) for one in record["candidates"]]
    return aligned([(*_COLUMNS, *_TIMES), *lines])


def _line(one: dict[str, Any], chosen: bool) -> list[str]:
    price = one.get("cost") or {}
    counts = (one.get(name) for name in ("cached_tokens", "cached_tokens_in_hbm", "charged_tokens"))
    return [
        "*" if chosen else "",
        str(one.get("role")),
        str(one.get("url")),
        *("-" if count is None else f"{count:,}" for count in counts),
        *("-" if price.get(name) is None else f"{price[name]:,.1f}" for name in _PRICES),
    ]


def summary(record: dict[str, Any]) -> str:
    """Who was chosen, and what for."""
    tokens, prefill, decode = (record.get(name) for name in ("prompt_tokens", "prefill", "decode"))
    known = "" if record.get("tokenised") else "about "
    pair = f"{prefill} prefills and {decode} decodes" if prefill else f"{decode} does both"
    lines = [
        f"prompt: {known}{tokens} tokens",
        f"{record.get('policy')}: {pair}, decided in {record.get('decision_us')} us",
    ]
    first: dict[str, Any] = next(
        (one for one in record["candidates"] if one.get("url") == (prefill or decode)), {}
    )
    if how := _WAYS.get(str((first.get("cost") or {}).get("plan"))):
        fetch = record.get("fetch")
        lines.append(f"by: {how}{_fetched(fetch) if isinstance(fetch, dict) else ''}")
    return "\n".join(lines)


def _fetched(fetch: dict[str, Any]) -> str:
    source, tokens, most = (fetch.get(name) for name in ("source", "tokens", "deadline_ms"))
    return f": {tokens} tokens from {source}, within {most} ms"
