"""An instance that answers every path, whatever was sent. What is looked at is the router before it.

`python -m benchmark.attack.engine PORT...` serves all of these ports from one process.
"""

import asyncio
import sys
from typing import Any

from aiohttp import web

_ANSWER = {"text": "x", "output_ids": [1], "meta_info": {"prompt_tokens": 1, "finish_reason": None}}
_EVENTS = [b'data: {"text": "x"}\n\n', b"data: [DONE]\n\n"]
_MAX_BODY = 1 << 28
# More than the router sends on.
_HEADS: dict[str, Any] = {"max_line_size": 1 << 17, "max_field_size": 1 << 17, "max_headers": 1 << 15}


async def _serve(request: web.Request) -> web.StreamResponse:
    raw = await request.read()
    if b'"stream":true' not in raw.replace(b" ", b""):
        return web.json_response(_ANSWER)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in _EVENTS:
        await response.write(event)
    return response


async def _run(ports: list[int]) -> None:
    app = web.Application(client_max_size=_MAX_BODY)
    app.add_routes([web.route("*", "/{path:.*}", _serve)])
    runner = web.AppRunner(app, access_log=None, **_HEADS)
    await runner.setup()
    for port in ports:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run([int(port) for port in sys.argv[1:]]))
