"""A prompt's text in the place of its tokens, where the router has no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from router.prompt.request import MAX_GUESSED_TOKENS, TokenArray
from router.protocol.body import prompts_of

CHATS = ("/v1/chat/completions", "/invocations")

_CHUNK_BYTES = 4
# A larger body may be many times its prompt: pictures are not worth writing out again.
_MAX_BODY_BYTES = 4 << 20


def text_chunks(fields: Mapping[str, Any], path: str, size: int) -> TokenArray | None:
    """How the prompt begins, as int32 `[n]`: each number is 4 bytes of UTF-8, which is about a token.

    Prompts that begin alike have chunks that begin alike. A chat is its tools and messages, as JSON. None
    where there is no single prompt of text. `size`: bytes of the body.
    """
    if size > _MAX_BODY_BYTES:
        return None
    text = _chat(fields) if path in CHATS else _text(prompts_of(fields, path))
    count = min(len(text) // _CHUNK_BYTES, MAX_GUESSED_TOKENS)
    # A copy: the rest of a long text is not kept for as long as its request lasts.
    return np.frombuffer(text[: count * _CHUNK_BYTES], dtype=np.int32) if count else None


def _text(prompt: Any) -> bytes:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        return b""
    # JSON may hold halves of characters, which UTF-8 cannot.
    return prompt[: MAX_GUESSED_TOKENS * _CHUNK_BYTES].encode(errors="surrogatepass")


def _chat(fields: Mapping[str, Any]) -> bytes:
    messages = fields.get("messages")
    if not isinstance(messages, list):
        return b""
    # Templates write the tools first. The list's end is no part of how a longer chat begins.
    parts = [fields["tools"], *messages] if fields.get("tools") else messages
    try:
        return orjson.dumps(parts)[:-1]
    except TypeError:
        # Halves of characters, numbers beyond 64 bits, or too many levels.
        return b""
