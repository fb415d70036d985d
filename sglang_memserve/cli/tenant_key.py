"""`memserve tenant-key`: a key for a tenant, and the digest by which routers know it."""

import argparse
import json
import secrets
from typing import Any

from router.tenants.file import key_digest
from sglang_memserve.cli.output import aligned, show

_EXAMPLE = """\
Give the key to the tenant; it is not kept anywhere. Put the digest into the routers' file of --tenants:

  tenants:
    - name: acme
      keys: ["sha256:..."]"""


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "tenant-key",
        help="make a key for a tenant of the router, and its digest",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of two lines")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    key = "ms-" + secrets.token_urlsafe(32)
    made = {"key": key, "digest": key_digest(key)}
    show(json.dumps(made) if args.json else aligned(list(made.items())))
    return 0
