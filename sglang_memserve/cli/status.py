"""`memserve status`: the instances behind a router, and how busy each is."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import Any

from router.protocol.tls import ClientTls
from sglang_memserve.cli.address import add_router, router_of
from sglang_memserve.cli.output import aligned, show, show_table
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import ask, client, worker_list

_COLUMNS = ("role", "url", "healthy", "running", "waiting", "tokens used", "tokens total")
_TOTALS = ("num_running_reqs", "num_waiting_reqs", "num_used_tokens", "max_total_num_tokens")


def add_command(commands: Any) -> None:
    parser = commands.add_parser("status", help="the instances behind a router", description=__doc__)
    add_router(parser, "print JSON instead of a table")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Prints one row for each instance. Returns 1 if one of them is down."""
    rows = asyncio.run(collect(*router_of(args, administers=True)))
    if args.json:
        show(json.dumps(rows, indent=2))
    else:
        show_table(cells(rows), {"yes": "green", "NO": "bold red"})
    return 0 if rows and all(row["healthy"] for row in rows) else 1


async def collect(
    router: str, api_key: str | None = None, tls: ClientTls | None = None
) -> list[dict[str, Any]]:
    """The rows, by the table's columns; None for what an instance did not report. Raises ClusterError."""
    async with client(api_key, tls) as session:
        workers = worker_list(await ask(session, f"{router}/workers"))
        try:
            reported = (await ask(session, f"{router}/v1/loads?include=core"))["instances"]
            loads = {entry["url"]: entry.get("loads") for entry in reported}
        except (ClusterError, KeyError, TypeError, AttributeError):
            loads = {}
    return [_row(worker, loads.get(worker["url"])) for worker in workers]


def _row(worker: dict[str, Any], loads: Any) -> dict[str, Any]:
    row = {"role": worker.get("role"), "url": worker["url"], "healthy": bool(worker.get("healthy"))}
    try:
        totals = [sum(load[key] for load in loads) for key in _TOTALS]
    except (KeyError, TypeError):
        totals = [None] * len(_TOTALS)
    return {**row, **dict(zip(_COLUMNS[3:], totals, strict=True))}


def cells(rows: list[dict[str, Any]]) -> list[Sequence[str]]:
    """The rows as text, under their headings."""
    return [_COLUMNS, *([_cell(row[column]) for column in _COLUMNS] for row in rows)]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows under their headings, in plain text."""
    return aligned(cells(rows))


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "NO"
        case int():
            return f"{value:,}"
    return str(value)
