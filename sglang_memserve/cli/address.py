"""Which router a command asks, and with which key."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from router.protocol.tls import ClientTls
from sglang_memserve.cluster.errors import UsageError

URL_VARIABLE = "MEMSERVE_URL"
# The first that is set counts. Where the router runs, its own variable has the key that it asks for.
KEY_VARIABLES = ("MEMSERVE_API_KEY", "MEMSERVE_ROUTER_API_KEY")
# An administrator's key opens all that a client's does.
ADMIN_KEY_VARIABLES = ("MEMSERVE_ADMIN_API_KEY", "MEMSERVE_ROUTER_ADMIN_API_KEY")
CA_VARIABLE = "MEMSERVE_CA_CERT_PATHS"
_DEFAULT = "http://127.0.0.1:30000"


class RouterAddress(NamedTuple):
    """Where a router is, the key that it asks for if there is one, and whom to believe at an https URL."""

    url: str
    api_key: str | None
    tls: ClientTls | None


def add_router(parser: argparse.ArgumentParser, json_help: str | None = None) -> None:
    """Where the router is, its key, and JSON for an answer if `json_help` says so."""
    parser.add_argument("--url", help=f"the router (default: MEMSERVE_URL, else {_DEFAULT})")
    parser.add_argument("--api-key", metavar="KEY", help="the router's API key (default: MEMSERVE_API_KEY)")
    parser.add_argument(
        "--ca-cert-paths", nargs="+", metavar="FILE", help="CA certificates (PEM) by which to check an https "
        "router, instead of the system's (default: MEMSERVE_CA_CERT_PATHS, with commas)"
    )  # fmt: skip
    if json_help:
        parser.add_argument("--json", action="store_true", help=json_help)


def router_of(
    args: argparse.Namespace, environ: Mapping[str, str] = os.environ, *, administers: bool = False
) -> RouterAddress:
    """The router of a command; one that `administers` presents the admin key where there is one.

    Raises UsageError for what is no URL, ConfigError for a CA certificate that cannot be read.
    """
    variable = environ.get(URL_VARIABLE)
    if args.url is not None:
        url = checked_url(args.url, "--url")
    else:
        url = checked_url(variable, URL_VARIABLE) if variable else _DEFAULT
    key = args.api_key or key_of(environ, administers=administers)
    return RouterAddress(url, key, _trusted(args.ca_cert_paths, environ))


def key_of(environ: Mapping[str, str] = os.environ, *, administers: bool = False) -> str | None:
    """The key that the environment has for clients, or for who administers."""
    variables = (*(ADMIN_KEY_VARIABLES if administers else ()), *KEY_VARIABLES)
    return next(filter(None, map(environ.get, variables)), None)


def _trusted(files: Sequence[str] | None, environ: Mapping[str, str]) -> ClientTls | None:
    named = files or [file.strip() for file in environ.get(CA_VARIABLE, "").split(",") if file.strip()]
    return ClientTls(tuple(named)) if named else None


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
