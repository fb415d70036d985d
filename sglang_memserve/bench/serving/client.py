"""One request to an endpoint, streamed and timed."""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import orjson

from sglang_memserve.bench.serving.answer import RequestError, StreamedAnswer
from sglang_memserve.bench.serving.apis import Conversation

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_JSON = {"Content-Type": "application/json"}
_CONNECT_S = 10.0
_MAX_EVENT = 16 * 1024 * 1024
_ERROR_CHARS = 300


def open_session(api_key: str | None = None) -> aiohttp.ClientSession:
    """A session without a limit of connections, which it keeps between requests. The caller closes it."""
    return aiohttp.ClientSession(
        # SGLang's servers close what was idle for 5 s: no connection is to be taken up at that very moment.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
        trust_env=False,
    )


@dataclass
class _Events:
    """Cuts a stream of server-sent events into the data of each."""

    _rest: bytes = b""
    done: bool = field(default=False)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises RequestError for an event without end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_EVENT:
            raise RequestError(f"an event of more than {_MAX_EVENT} bytes")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if (text := line[5:].strip()) == b"[DONE]":
                self.done = True
            else:
                yield text


@dataclass(frozen=True)
class Client:
    """Sends requests to the server at `url`. `timeout_s` bounds each, from its write to the answer's end."""

    session: aiohttp.ClientSession
    url: str
    timeout_s: float

    async def ask(self, conversation: Conversation, body: bytes) -> StreamedAnswer:
        """The whole answer to `body`. Raises RequestError if it is refused, broken off, empty or too late."""
        timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=_CONNECT_S)
        answer, start = StreamedAnswer(), time.perf_counter()
        try:
            async with self.session.post(
                self.url + conversation.path, data=body, headers=_JSON, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise RequestError(f"{response.status}: {_short(await response.content.read(4096))}")
                await _listen(response, conversation, answer, start)
        except aiohttp.ClientError as error:
            raise RequestError(str(error) or type(error).__name__) from error
        except TimeoutError:
            raise RequestError(f"no whole answer within {self.timeout_s:g} s") from None
        except OSError as error:
            raise RequestError(str(error) or type(error).__name__) from error
        answer.end = time.perf_counter() - start
        return _whole(answer)


async def _listen(
    response: aiohttp.ClientResponse, conversation: Conversation, answer: StreamedAnswer, start: float
) -> None:
    events = _Events()
    _acknowledge(response)
    async for data in response.content.iter_any():
        at = time.perf_counter() - start
        _acknowledge(response)
        for text in events.feed(data):
            event = _event(text)
            try:
                conversation.on_event(event, at, answer)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise RequestError(f"an event of no known form: {_short(text)}") from None
    answer.finished = answer.finished or events.done


def _event(text: bytes) -> dict[str, object]:
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestError(f"an event that is no JSON: {_short(text)}") from None
    if not isinstance(event, dict):
        raise RequestError(f"an event that is no object: {_short(text)}")
    if error := event.get("error"):
        raise RequestError(f"in the stream: {_short(str(error).encode())}")
    return event


def _whole(answer: StreamedAnswer) -> StreamedAnswer:
    if not answer.finished:
        raise RequestError(f"broke off after {len(answer.token_times)} tokens")
    if not answer.token_times and answer.reported_tokens:
        answer.add_tokens(answer.end, 1)  # tokens that have no text of their own
    if not answer.token_times:
        raise RequestError("an answer without a token")
    return answer


def _acknowledge(response: aiohttp.ClientResponse) -> None:
    """Acknowledges what has come at once.

    A server that left Nagle's algorithm on, as sglang-router does, sends its second segment only then, and
    Linux may put it off by 40 ms.
    """
    transport = response.connection.transport if response.connection else None
    sock = transport.get_extra_info("socket") if transport else None
    if sock is not None and _QUICKACK is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def _short(text: bytes) -> str:
    return text[:_ERROR_CHARS].decode(errors="replace").strip()
