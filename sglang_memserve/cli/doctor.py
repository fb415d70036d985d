"""`memserve doctor`: what is wrong in a running cluster, and what to do about it."""

import argparse
import asyncio
import json
from dataclasses import asdict
from typing import Any

from router.protocol.tls import ClientTls
from sglang_memserve.cli.address import add_router, router_of
from sglang_memserve.cli.output import show, show_styled
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import client
from sglang_memserve.doctor import Finding, Severity, examine, gather
from sglang_memserve.doctor.finding import wrong

_START = "start it, or say where it is with --url, and its key with --api-key"


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="what is wrong in a cluster, and what to do about it", description=__doc__
    )
    add_router(parser, "print JSON instead of text")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Prints what each check found. Returns 1 if something is wrong."""
    findings = asyncio.run(diagnose(*router_of(args, administers=True)))
    healthy = all(finding.state is not Severity.WRONG for finding in findings)
    if args.json:
        result = {"ok": healthy, "findings": [asdict(finding) for finding in findings]}
        show(json.dumps(result, indent=2))
    else:
        show_styled(lines_of(findings))
    return 0 if healthy else 1


async def diagnose(router: str, api_key: str | None = None, tls: ClientTls | None = None) -> list[Finding]:
    """Never raises for what a router, or whatever is at its address, says or does not say."""
    async with client(api_key, tls) as session:
        try:
            evidence = await gather(session, router)
        except ClusterError as error:
            return [wrong("router", str(error), _START)]
    return [Finding("router", Severity.OK, f"answers at {router}"), *examine(evidence)]


def lines_of(findings: list[Finding]) -> list[tuple[str, str]]:
    """Each finding, with what to do about it below it; and the style of each line."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        style = _STYLES[finding.state]
        lines.append((f"{_MARKS[finding.state]}  {finding.check:<{width}}  {finding.says}", style))
        if finding.do:
            lines.append((f"{'':<{len(_MARKS[Severity.OK]) + 2 + width}}  -> {finding.do}", "bold"))
    return lines


def report(findings: list[Finding]) -> str:
    """The findings in plain text."""
    return "\n".join(text for text, _ in lines_of(findings))


_MARKS = {Severity.OK: "ok   ", Severity.NOTE: "note ", Severity.WRONG: "WRONG"}
_STYLES = {Severity.OK: "green", Severity.NOTE: "yellow", Severity.WRONG: "bold red"}
