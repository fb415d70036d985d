"""Where SGLang's scheduler of a decode instance meets the transfer backend."""

from collections.abc import Callable
from typing import Any

from sglang_memserve.hooks.scheduler_state import scheduler_state


def expect_first_token(queue: Any, req: Any) -> None:
    """Lets a request's first token be streamed as soon as its KV has landed."""
    manager = scheduler_state(queue.scheduler).manager
    if manager is not None and manager.decode is not None and req.bootstrap_room:
        manager.decode.expect_first_token(queue.scheduler, queue.metadata_buffers, req)


def stream_the_rest(
    original: Callable[..., Any], streamer: Any, reqs: list[Any], *args: Any, **kwargs: Any
) -> Any:
    """Around SGLang's `stream_output`, for the requests that have something left to stream."""
    from sglang_memserve.transfer import first_token

    with first_token.lock_of(streamer):
        return original(streamer, first_token.not_yet_streamed(reqs), *args, **kwargs)
