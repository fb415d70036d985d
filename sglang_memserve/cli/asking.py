"""What the commands that ask a running router have in common."""

import argparse
import os


def add_router(parser: argparse.ArgumentParser, json_help: str) -> None:
    """Where the router is, its key, and JSON for an answer."""
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="the router (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="the router's (default: MEMSERVE_API_KEY)")
    parser.add_argument("--json", action="store_true", help=json_help)


def router_of(args: argparse.Namespace) -> tuple[str, str | None]:
    """Its URL, and the key if there is one."""
    return args.url.rstrip("/"), args.api_key or os.environ.get("MEMSERVE_API_KEY")
