"""Which router a command asks, and with which key."""

import argparse
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from sglang_memserve.cluster.errors import UsageError

URL_VARIABLE = "MEMSERVE_URL"
# The first that is set counts. Where the router runs, its own variable has the key that it asks for.
KEY_VARIABLES = ("MEMSERVE_API_KEY", "MEMSERVE_ROUTER_API_KEY")
_DEFAULT = "http://127.0.0.1:30000"


def add_router(parser: argparse.ArgumentParser, json_help: str | None = None) -> None:
    """Where the router is, its key, and JSON for an answer if `json_help` says so."""
    parser.add_argument("--url", help=f"the router (default: MEMSERVE_URL, else {_DEFAULT})")
    parser.add_argument("--api-key", metavar="KEY", help="the router's API key (default: MEMSERVE_API_KEY)")
    if json_help:
        parser.add_argument("--json", action="store_true", help=json_help)


def router_of(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> tuple[str, str | None]:
    """The router's URL, and its key if there is one. Raises UsageError for what is no URL."""
    variable = environ.get(URL_VARIABLE)
    if args.url is not None:
        url = checked_url(args.url, "--url")
    else:
        url = checked_url(variable, URL_VARIABLE) if variable else _DEFAULT
    return url, args.api_key or key_of(environ)


def key_of(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key that the environment has for clients."""
    return next(filter(None, map(environ.get, KEY_VARIABLES)), None)


def checked_url(url: str, name: str) -> str:
    """Without a slash at its end. Raises UsageError unless it is http://HOST:PORT or the like."""
    shown = f"{name} {url}" if name.startswith("-") else f"{name}={url}"
    if "://" not in url:
        raise UsageError(f"{shown}: a URL begins with its scheme: give http://{url}")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{shown} is no URL of a server: give scheme, host and port, as in {_DEFAULT}")
    return url.rstrip("/")
