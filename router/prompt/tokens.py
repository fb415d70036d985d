"""The tokens of a request's prompt, in bounded time; those of a long prompt off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

import numpy as np

from mempool.index.keys import token_array
from router.instances.instance import Instance
from router.instances.server_info import ServerInfo
from router.prompt.request import TokenArray
from router.prompt.template import Unrenderable
from router.prompt.text import CHATS, text_chunks
from router.prompt.tokenizer import Fingerprint, ModelTokenizer, fingerprint
from router.protocol.body import prompts_of

logger = logging.getLogger(__name__)

_TEXTS = {"/generate": "text", "/v1/completions": "prompt"}
_MAX_THREADS = 4
# Bytes of a body. To hand a shorter one to a thread takes longer than to tokenise it, at 0.25 us a byte.
_MIN_THREAD_BYTES = 2048
# Of a body for each token: no text of so many fits. Escaped CJK takes the most, some 9.
_BYTES_PER_TOKEN = 16
# Of the bodies that threads tokenise at the same time, requests that have given up waiting included: a byte
# takes some 100 in the tokenizer.
_MAX_BYTES_AT_ONCE = 8 << 20
_BY_TEXT = "prompts are matched by their text; give --tokenizer"


class PromptEncoder(Protocol):
    """What `ModelTokenizer` does."""

    def text(self, text: str) -> TokenArray: ...

    def chat(self, fields: Mapping[str, Any]) -> TokenArray: ...


class Tokens:
    """Tokenises as the model does. A request waits `timeout_s` seconds for its tokens at most.

    The tokenizer is loaded in the background, from `where` or from what an instance reports. `counts`: how
    many prompts have their tokens, and why the others have none. `instances` may change meanwhile.
    """

    def __init__(
        self,
        instances: Collection[Instance],
        where: str,
        timeout_s: float,
        load: Callable[[str], PromptEncoder] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._instances = instances
        self._where = where
        self._timeout_s = timeout_s
        self._load = load or ModelTokenizer.load
        self._tokenizer: PromptEncoder | None = None
        self._loaded = ""
        self._fingerprint = Fingerprint()
        self._loading: asyncio.Task[None] | None = None
        self._tried: set[str] = set()
        self._warned = False
        threads = min(_MAX_THREADS, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokens")
        self._lock = Lock()
        self._bytes_at_once = 0

    async def of(self, fields: Mapping[str, Any], path: str, size: int) -> TokenArray | None:
        """int32 `[n]`, or None. Never raises. `size`: bytes of the body."""
        try:
            tokens = await self._tokens(fields, path, size)
        except _NoTokens as reason:
            self.counts[str(reason)] += 1
            return None
        self.counts["tokenised"] += 1
        return tokens

    def text_of(self, fields: Mapping[str, Any], path: str, size: int) -> TokenArray | None:
        """The text of a prompt that has no tokens, in their place; None where there is a tokenizer."""
        text = text_chunks(fields, path, size) if self._tokenizer is None else None
        loading = self._loading is not None and not self._loading.done()
        if text is not None and not self._warned and not loading:
            self._warned = True
            logger.warning("no instance names a tokenizer: %s", _BY_TEXT)
        return text

    def are_missing(self, fields: Mapping[str, Any], path: str) -> bool:
        """Whether one of the request's prompts surely has no tokens.

        An empty text may have some: many tokenizers begin every text with one. So it counts only where the
        tokenizer is loaded.
        """
        prompts = prompts_of(fields, path)
        several = isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list)
        given = prompts if several else [prompts]
        if any(prompt == "" for prompt in given):
            return self._tokenizer is not None and not len(self._tokenizer.text(""))
        return any(prompt == [] for prompt in given)

    def prepare(self) -> None:
        """Begins to load the tokenizer, if a place is known that was not tried yet."""
        if self._tokenizer is not None or (self._loading is not None and not self._loading.done()):
            return
        places = (
            [self._where]
            if self._where
            else [instance.server_info.tokenizer for instance in self._instances if instance.server_info]
        )
        untried = next((place for place in places if place and place not in self._tried), None)
        if untried is not None:
            self._tried.add(untried)
            self._loading = asyncio.create_task(self._get(untried))

    def describe(self) -> dict[str, Any]:
        """`unlike`: URLs of instances that report another tokenizer or chat template."""
        return {"loaded": self._loaded or None, **self._fingerprint._asdict(), "unlike": self._unlike()}

    async def close(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _get(self, where: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._tokenizer = await loop.run_in_executor(self._threads, self._load, where)
            self._loaded = where
            self._fingerprint = await loop.run_in_executor(self._threads, fingerprint, where)
            logger.info("tokenizes as %s", where)
            if unlike := self._unlike():
                logger.warning("%s is another tokenizer or chat template than that of %s", where, unlike)
        except Exception as error:
            self._warned = True
            logger.warning("no tokenizer at %s (%s): %s", where, error, _BY_TEXT)

    def _unlike(self) -> list[str]:
        own = self._fingerprint
        reported = {
            instance.url: instance.server_info.compatibility
            for instance in self._instances
            if instance.server_info
        }
        return [
            url
            for url, fields in reported.items()
            if _differ(own.tokenizer, fields.tokenizer) or _differ(own.template, fields.template)
        ]

    async def _tokens(self, fields: Mapping[str, Any], path: str, size: int) -> TokenArray:
        if size > _MIN_THREAD_BYTES and size > self._max_bytes():
            raise _NoTokens("too long")
        if (ids := fields.get("input_ids")) is not None:
            return _checked(ids)
        prompt = fields.get(_TEXTS.get(path, ""))
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        if isinstance(prompt, list):
            return _checked(prompt)
        if path in CHATS and isinstance(fields.get("messages"), list):
            return await self._encoded(lambda tokenizer: tokenizer.chat(fields), size)
        if isinstance(prompt, str):
            text = prompt
            return await self._encoded(lambda tokenizer: tokenizer.text(text), size)
        raise _NoTokens("endpoint" if path not in _TEXTS and path not in CHATS else "no prompt")

    def _max_bytes(self) -> int:
        """Of a body that may fit in the largest context here."""
        contexts = (each.server_info.max_prompt_tokens for each in self._instances if each.server_info)
        return _BYTES_PER_TOKEN * max(contexts, default=ServerInfo().max_prompt_tokens)

    async def _encoded(self, encode: Callable[[PromptEncoder], TokenArray], size: int) -> TokenArray:
        self.prepare()
        if self._tokenizer is None:
            raise _NoTokens("no tokenizer")
        try:
            if size < _MIN_THREAD_BYTES:
                return encode(self._tokenizer)
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(self._begun(encode, self._tokenizer, size))
        except _NoTokens:
            raise
        except TimeoutError:
            raise _NoTokens("too slow") from None
        except Unrenderable as why:
            raise _NoTokens(str(why)) from None
        except Exception as error:
            logger.debug("tokenising failed: %r", error)
            raise _NoTokens("failed") from None

    def _begun(
        self, encode: Callable[[PromptEncoder], TokenArray], tokenizer: PromptEncoder, size: int
    ) -> Future[TokenArray]:
        with self._lock:
            if self._bytes_at_once + size > _MAX_BYTES_AT_ONCE:
                raise _NoTokens("busy")
            self._bytes_at_once += size
        future = self._threads.submit(encode, tokenizer)
        # A thread goes on after its request's time is up: it counts until it ends.
        future.add_done_callback(lambda _: self._ended(size))
        return future

    def _ended(self, size: int) -> None:
        with self._lock:
            self._bytes_at_once -= size


class _NoTokens(Exception):
    """A prompt without tokens; the text is the reason, by which it is counted."""


def _differ(own: str | None, reported: str | None) -> bool:
    return own is not None and reported is not None and own != reported


def _checked(ids: Any) -> TokenArray:
    if isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], list):
        ids = ids[0]
    if not isinstance(ids, list) or not ids:
        raise _NoTokens("no prompt")
    if isinstance(ids[0], list | str):
        raise _NoTokens("batch")
    try:
        return np.ascontiguousarray(token_array(ids))
    except (TypeError, ValueError):
        raise _NoTokens("no ids") from None
