"""SGLang's bootstrap port for members of a cluster: who asks answers a challenge with the cluster's key.

Prefill's ranks make themselves known there, and decode asks for them, over plain HTTP. With a key, a request
without a good answer gets 401 and a challenge, and changes nothing. An answer is good for that request alone:

    HMAC-SHA256(key, challenge | method | path and query | SHA-256 of the body)

No clocks are compared. Answers are not signed: the sockets that they name check members themselves.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import requests
from aiohttp import web
from requests.auth import AuthBase
from sglang.srt.disaggregation.common import conn

from mempool.security.cluster_key import ClusterKey
from sglang_memserve.options import InstanceOptions

CHALLENGE = "X-MemServe-Challenge"
ANSWER = "X-MemServe-Answer"
CHALLENGE_SECONDS = 60.0
_PURPOSE = "bootstrap"
_TIME_BYTES, _RANDOM_BYTES, _TAG_BYTES = 8, 8, 16

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Challenges:
    """What this process asked within the last minute. Its own are known by their tag; none is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = os.urandom(32)
        self._clock = clock

    def new(self) -> str:
        stamp = int(self._clock()).to_bytes(_TIME_BYTES, "little") + os.urandom(_RANDOM_BYTES)
        return (stamp + self._tag(stamp)).hex()

    def holds(self, challenge: str) -> bool:
        try:
            raw = bytes.fromhex(challenge)
        except ValueError:
            return False
        stamp, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        asked_s = int.from_bytes(stamp[:_TIME_BYTES], "little")
        return hmac.compare_digest(tag, self._tag(stamp)) and self._clock() - asked_s <= CHALLENGE_SECONDS

    def _tag(self, stamp: bytes) -> bytes:
        return hmac.digest(self._secret, stamp, "sha256")[:_TAG_BYTES]


class MemberAuth(AuthBase):
    """For `requests`: answers a challenge, where there is one, by sending the request once more."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.register_hook("response", self._answered)
        return prepared

    def _answered(self, response: requests.Response, **how: Any) -> requests.Response:
        challenge = response.headers.get(CHALLENGE)
        if response.status_code != 401 or challenge is None:
            return response
        # Read to its end, the connection is free for the answer.
        _ = response.content
        request = response.request.copy()
        body = request.body or b""
        raw = body if isinstance(body, bytes) else str(body).encode()
        request.headers[CHALLENGE] = challenge
        request.headers[ANSWER] = answer(self._key, challenge, str(request.method), request.path_url, raw)
        again: requests.Response = response.connection.send(request, **how)
        again.history.append(response)
        return again


class MemberBootstrapServer(conn.CommonKVBootstrapServer):
    """Where this process has no cluster key, it is SGLang's own server."""

    def _setup_routes(self) -> None:
        super()._setup_routes()
        cluster_key = InstanceOptions.from_environment().access().key
        if cluster_key is not None:
            self.app.middlewares.append(members_alone(cluster_key.derive(_PURPOSE)))


def members_alone(key: bytes) -> Any:
    """A middleware that lets requests through which carry a good answer."""
    challenges = Challenges()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        challenge = request.headers.get(CHALLENGE, "")
        # A stranger's body is not read.
        if challenges.holds(challenge):
            body = await request.read()
            good = answer(key, challenge, request.method, request.raw_path, body)
            if hmac.compare_digest(good.encode(), request.headers.get(ANSWER, "").encode()):
                return await handler(request)
        return web.Response(
            status=401, headers={CHALLENGE: challenges.new()}, text="members of the cluster only"
        )

    return check


def answer(key: bytes, challenge: str, method: str, path: str, body: bytes) -> str:
    """In hex. `path`: with the query, as it is in the request's first line."""
    said = "\n".join((challenge, method, path, hashlib.sha256(body).hexdigest()))
    return hmac.digest(key, said.encode(), "sha256").hex()


def answer_challenges(cluster_key: ClusterKey | None) -> None:
    """From now on SGLang's common layer answers them in this process, where there is a key."""
    if cluster_key is None:
        return
    auth = MemberAuth(cluster_key.derive(_PURPOSE))

    def session() -> requests.Session:
        made = requests.Session()
        made.auth = auth
        return made

    conn.requests = SimpleNamespace(
        get=partial(requests.get, auth=auth),
        put=partial(requests.put, auth=auth),
        post=partial(requests.post, auth=auth),
        Session=session,
        adapters=requests.adapters,
    )
