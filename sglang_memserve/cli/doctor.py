"""`memserve doctor`: what does not fit in a running cluster, and what to do about it."""

import argparse
import asyncio
import json
from dataclasses import asdict
from typing import Any

from sglang_memserve.cli.address import add_router, router_of
from sglang_memserve.cli.output import show
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import client
from sglang_memserve.doctor import Finding, State, examine, gather
from sglang_memserve.doctor.finding import wrong

_START = "start it, or say where it is with --url, and its key with --api-key"


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="what does not fit, and what to do about it", description=__doc__
    )
    add_router(parser, "print JSON instead of text")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Prints what each check found. Returns 1 if something is wrong."""
    findings = asyncio.run(diagnose(*router_of(args)))
    healthy = all(one.state is not State.WRONG for one in findings)
    told = {"ok": healthy, "findings": [asdict(one) for one in findings]}
    show(json.dumps(told, indent=2) if args.json else report(findings))
    return 0 if healthy else 1


async def diagnose(router: str, api_key: str | None = None) -> list[Finding]:
    """Never raises for what a router, or whatever is at its address, says or does not say."""
    async with client(api_key) as session:
        try:
            evidence = await gather(session, router)
        except ClusterError as error:
            return [wrong("router", str(error), _START)]
    return [Finding("router", State.OK, f"answers at {router}"), *examine(evidence)]


def report(findings: list[Finding]) -> str:
    """What is to be done goes below what was found."""
    width = max(len(one.check) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{_MARKS[one.state]}  {one.check:<{width}}  {one.says}")
        if one.do:
            lines.append(f"{'':<{len(_MARKS[State.OK]) + 2 + width}}  -> {one.do}")
    return "\n".join(lines)


_MARKS = {State.OK: "ok   ", State.NOTE: "note ", State.WRONG: "WRONG"}
