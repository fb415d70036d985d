"""Requests byte by byte, as no HTTP library would send them."""

import asyncio
import json
from urllib.parse import urlsplit


async def exchange(cluster, sent):
    """Status, headers and body of the answer to these bytes; the status is None without an answer."""
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 24)
    try:
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body
    except (asyncio.IncompleteReadError, ConnectionError):
        return None, {}, b""
    finally:
        writer.close()


def request(method, target, body=b"", **headers):
    """`target` and values may be bytes, which are sent as they are."""
    fields = {"Host": "r", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [b" ".join([_bytes(method), _bytes(target), b"HTTP/1.1"])]
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in fields.items() if value is not None]
    return b"\r\n".join([*lines, b"", body])


def assert_refused(answer, *statuses):
    """The answer is the router's own JSON error, of one of these statuses (any of 4xx without them)."""
    status, headers, body = answer
    assert status in statuses if statuses else 400 <= status < 500, answer
    assert headers["content-type"].startswith("application/json"), answer
    error = json.loads(body)["error"]
    assert (error["code"], set(error)) == (status, {"message", "type", "code"}), answer


def _bytes(value):
    return value if isinstance(value, bytes) else value.encode()
