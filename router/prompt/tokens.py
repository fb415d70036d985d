"""The tokens of a request's prompt: in bounded time, a long one's off the event loop, or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from mempool.index.keys import token_array
from router.instances.instance import Instance
from router.prompt.request import TokenArray
from router.prompt.template import Unrenderable
from router.prompt.tokenizer import Fingerprint, Tokenizer, fingerprint

logger = logging.getLogger(__name__)

_CHATS = ("/v1/chat/completions", "/invocations")
_TEXTS = {"/generate": "text", "/v1/completions": "prompt"}
_MOST_THREADS = 4
# Of a body. To hand a shorter one to a thread takes longer than to tokenise it: 0.25 us a byte.
_HANDED_OVER = 2048


class Encodes(Protocol):
    def text(self, text: str) -> TokenArray: ...

    def chat(self, fields: Mapping[str, Any]) -> TokenArray: ...


class Tokens:
    """Tokenises as the model does. What it cannot tokenise costs the request `timeout_s` seconds at most.

    The tokenizer is loaded in the background, from `where` or from what an instance tells. `counts` says how
    many prompts have their tokens, and why the others have none. `instances` may change meanwhile.
    """

    def __init__(
        self,
        instances: Collection[Instance],
        where: str,
        timeout_s: float,
        load: Callable[[str], Encodes] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._instances = instances
        self._where = where
        self._timeout_s = timeout_s
        self._load = load or Tokenizer.load
        self._tokenizer: Encodes | None = None
        self._loaded = ""
        self._fingerprint = Fingerprint()
        self._loading: asyncio.Task[None] | None = None
        self._tried: set[str] = set()
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokens")

    async def of(self, fields: Mapping[str, Any], path: str, size: int) -> TokenArray | None:
        """int32 `[n]`, or None. Never raises. `size`: of the body, in bytes."""
        try:
            tokens = await self._tokens(fields, path, size)
        except _NoTokens as no:
            self.counts[str(no)] += 1
            return None
        self.counts["tokenised"] += 1
        return tokens

    def prepare(self) -> None:
        """Begin to load the tokenizer, if somebody has told where one is that was not tried yet."""
        if self._tokenizer is not None or (self._loading is not None and not self._loading.done()):
            return
        told = (
            [self._where]
            if self._where
            else [one.server_info.tokenizer for one in self._instances if one.server_info]
        )
        untried = next((where for where in told if where and where not in self._tried), None)
        if untried is not None:
            self._tried.add(untried)
            self._loading = asyncio.create_task(self._get(untried))

    def describe(self) -> dict[str, Any]:
        """`unlike`: who has told of another tokenizer or chat template."""
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
            logger.warning(
                "no tokenizer at %s (%s): requests are routed without their tokens; give --tokenizer",
                where,
                error,
            )

    def _unlike(self) -> list[str]:
        own = self._fingerprint
        reported = {one.url: one.server_info.compatibility for one in self._instances if one.server_info}
        return [
            url
            for url, fields in reported.items()
            if _differ(own.tokenizer, fields.tokenizer) or _differ(own.template, fields.template)
        ]

    async def _tokens(self, fields: Mapping[str, Any], path: str, size: int) -> TokenArray:
        if (ids := fields.get("input_ids")) is not None:
            return _checked(ids)
        prompt = fields.get(_TEXTS.get(path, ""))
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        if isinstance(prompt, list):
            return _checked(prompt)
        if path in _CHATS and isinstance(fields.get("messages"), list):
            return await self._encoded(lambda tokenizer: tokenizer.chat(fields), size)
        if isinstance(prompt, str):
            text = prompt
            return await self._encoded(lambda tokenizer: tokenizer.text(text), size)
        raise _NoTokens("endpoint" if path not in _TEXTS and path not in _CHATS else "no prompt")

    async def _encoded(self, encode: Callable[[Encodes], TokenArray], size: int) -> TokenArray:
        self.prepare()
        if self._tokenizer is None:
            raise _NoTokens("no tokenizer")
        loop = asyncio.get_running_loop()
        try:
            if size < _HANDED_OVER:
                return encode(self._tokenizer)
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, encode, self._tokenizer)
        except TimeoutError:
            raise _NoTokens("too slow") from None
        except Unrenderable as why:
            raise _NoTokens(str(why)) from None
        except Exception as error:
            logger.debug("tokenising failed: %r", error)
            raise _NoTokens("failed") from None


class _NoTokens(Exception):
    """The text is the reason, by which it is counted."""


def _differ(own: str | None, told: str | None) -> bool:
    return own is not None and told is not None and own != told


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
