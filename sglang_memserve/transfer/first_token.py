"""Decode streams a request's first token as its KV lands.

SGLang's scheduler streams it before the step after that: for a client, half a step later on average.
"""

import contextlib
import copy
import logging
import threading
from collections.abc import Callable
from typing import Any

from sglang_memserve.request_state import request_state

logger = logging.getLogger(__name__)

# How far a request's output has been streamed, which SGLang keeps in the request itself.
_OFFSETS = (
    "send_token_offset",
    "send_decode_id_offset",
    "surr_offset",
    "read_offset",
    "surr_and_decode_ids",
    "cur_decode_ids_len",
)
_WANTS_MORE = (
    "return_logprob",
    "return_hidden_states",
    "return_routed_experts",
    "return_indexer_topk",
    "return_sampling_mask",
    "require_reasoning",
    "grammar",
    "beam_group",
    "customized_info",
    "multimodal_inputs",
    # Rejected, aborted, or begun before and taken back since.
    "to_finish",
    "finished_reason",
    "output_ids",
)


class FirstTokens:
    """Streams first tokens ahead of the scheduler. `stream` may be called from any thread, all else belongs
    to the scheduler's.

    A request is left to the scheduler unless it streams plain text, which needs nothing but the token.
    """

    def __init__(self, scheduler: Any, metadata: Any) -> None:
        self._streamer = scheduler.output_streamer
        self._metadata = metadata
        self._supported = _is_supported(scheduler)
        sender = self._streamer.send_to_detokenizer
        sender.send_output = send = _LockedSend(sender.send_output)
        self._lock = send.lock
        self.streamed = 0

    def can_stream(self, req: Any) -> bool:
        """Whether `stream` may be called for the request, which waits for its KV."""
        from sglang.srt.disaggregation.utils import FAKE_BOOTSTRAP_HOST

        return self._supported and is_plain(req) and bool(req.bootstrap_host != FAKE_BOOTSTRAP_HOST)

    def stream(self, req: Any, row: int) -> None:
        """All of its KV is here, and its metadata in that row. The scheduler does not know yet."""
        try:
            ahead = self._with_first_token(req, row)
            with self._lock:
                # The scheduler streams an abort only after it has set the reason.
                if ahead is not None and req.finished_reason is None:
                    self._streamer.stream_output([ahead], False)
                    request_state(req).streamed = {name: getattr(ahead, name) for name in _OFFSETS}
                    self.streamed += 1
        except Exception:
            logger.exception("the first token of %s", req.rid)

    def _with_first_token(self, req: Any, row: int) -> Any | None:
        """A copy of the request as the scheduler will have it; None where it ends with that token."""
        metadata = self._metadata
        if not is_plain(req) or int(metadata.bootstrap_room[row, 0]) != req.bootstrap_room:
            return None
        ahead = copy.copy(req)
        ahead.output_ids = type(req.output_ids)(req.output_ids.typecode, [int(metadata.output_ids[row, 0])])
        cached, *sources = metadata.cached_tokens[row, :4].tolist()
        more = max(0, req.prefix_len - cached)
        ahead.cached_tokens = cached + more
        ahead.cached_tokens_device, ahead.cached_tokens_host, ahead.cached_tokens_storage = sources
        ahead.cached_tokens_device += more
        ahead.update_finish_state()
        return None if ahead.finished() else ahead


def _is_supported(scheduler: Any) -> bool:
    return (
        scheduler.server_args.tp_size == 1
        and scheduler.spec_algorithm.is_none()
        and not scheduler.enable_decode_hicache
        and scheduler.rust_server is None
        and scheduler.kv_checksum_computer is None
        and not scheduler.model_config.self_opened_think_start_ids
    )


def is_plain(req: Any) -> bool:
    """Whether a client's first event is the first token and nothing else."""
    params = req.sampling_params
    return bool(
        req.stream
        and not any(getattr(req, name, None) for name in _WANTS_MORE)
        and not params.stop_strs
        and not params.stop_regex_strs
    )


def not_yet_streamed(reqs: list[Any]) -> list[Any]:
    """The requests that the scheduler has something to stream of."""
    return [req for req in reqs if not _was_streamed(req)]


def _was_streamed(req: Any) -> bool:
    """Whether all that the request has was streamed ahead. What follows goes on from there."""
    state = request_state(req)
    offsets, state.streamed = state.streamed, None
    if offsets is None:
        return False
    # Also where the request has ended since.
    for name, offset in offsets.items():
        setattr(req, name, offset)
    return not req.finished() and req.send_token_offset == len(req.output_ids)


def lock_of(streamer: Any) -> contextlib.AbstractContextManager[Any]:
    """Keeps `FirstTokens` from streaming while the scheduler does."""
    send = streamer.send_to_detokenizer.send_output
    return send.lock if isinstance(send, _LockedSend) else contextlib.nullcontext()


class _LockedSend:
    """In place of a sender's own method: a ZeroMQ socket serves one thread at a time."""

    def __init__(self, send: Callable[..., None]) -> None:
        self.lock = threading.RLock()
        self._send = send

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self._send(*args, **kwargs)
