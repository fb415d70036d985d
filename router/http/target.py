"""The path under which a request reaches an instance: as the list of endpoints spells it, and no other."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from aiohttp import web
from aiohttp.typedefs import Handler

from router.errors import BadRequest
from router.forwarding.record import TARGET, UpstreamTarget

_SLASHES = re.compile(r"[/\\]")
_DOTS = frozenset({".", ".."})
# Proxies on the way decode once or twice. A name that is encoded more often hides something.
_DECODED_TIMES = 4


@web.middleware
async def listed_target(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Sets TARGET. Raises BadRequest for a path that could lead elsewhere; unknown paths are left alone."""
    if request.match_info.route.resource is not None:
        request[TARGET] = UpstreamTarget(_path(request), _query(request))
    return await handler(request)


def endpoint_of(request: web.Request) -> str | None:
    """The pattern of the endpoint in the list; None for a path that is not listed."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _path(request: web.Request) -> str:
    resource = request.match_info.route.resource
    assert resource is not None
    listed = resource.get_info()
    if "path" in listed:
        return listed["path"]
    # aiohttp matched the client's spelling. This is what it decodes to, by which an instance goes.
    path = listed["formatter"].format_map(request.match_info)
    if _climbs(path) or listed["pattern"].fullmatch(path) is None:
        raise BadRequest(f"{path!r:.200}: a name in a path has no dots for a segment, nor a hidden slash")
    # A name may begin with a slash, as a model's folder does. Nobody on the way may take // for /.
    return quote(path, safe="/:@+,=~!$&'()*;").replace("//", "/%2F")


def _climbs(path: str) -> bool:
    """Whether there is a segment of dots in it, or may be one where it is decoded again on the way."""
    for _ in range(_DECODED_TIMES):
        if not _DOTS.isdisjoint(_SLASHES.split(path)):
            return True
        path = unquote(path)
    return unquote(path) != path


def _query(request: web.Request) -> str:
    query = request.rel_url.raw_query_string
    return query and "?" + query
