"""Prefills of known lengths, timed on a running instance."""

import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from router.cost.attention import Request
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import ask

# Other lengths than any benchmark's: what is fitted here is judged there.
SAMPLES: tuple[tuple[Request, ...], ...] = (
    ((0, 80),),
    ((0, 320),),
    ((0, 1200),),
    ((0, 2900),),
    ((0, 90),) * 4,
    ((0, 450),) * 3,
    ((2560, 80),),
    ((2560, 700),),
    ((2560, 200), (1280, 300)),
)
_ANSWER_S = 300.0
_ORDINARY_TOKENS = (1000, 40_000)


class PrefillProbe:
    """Prefills on the instance at `url`: random tokens, after prefixes of documents that are sent before.

    Seconds are of the whole request of one answer token, over HTTP: what a client waits for, the server's own
    handling of it included. Prompts of one batch are one request: the scheduler gets them at once.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, vocab: int, page_size: int = 16) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._page_size = page_size
        low, high = _ORDINARY_TOKENS
        self._tokens = range(min(low, vocab // 2), min(high, vocab))
        self._random = random.Random(time.time_ns())
        self._documents: list[list[int]] = []

    async def forward_tokens(self) -> int | None:
        """How many new tokens a forward has at most. None where the instance does not report it."""
        info = await ask(self._session, f"{self._url}/server_info")
        size = info.get("chunked_prefill_size") if isinstance(info, dict) else None
        return size if isinstance(size, int) and size > 0 else None

    async def median_seconds(self, batch: Sequence[Request], rounds: int = 3) -> float:
        """Raises ClusterError if the instance does not answer, or does not keep a prefix."""
        return statistics.median([await self.seconds(batch) for _ in range(rounds)])

    async def seconds(self, batch: Sequence[Request]) -> float:
        """Of one prefill. Cached lengths must be whole pages; the prefixes are sent first where need be."""
        for _ in range(2):
            prompts = [
                self._prefix(number, cached) + self._fresh(new) for number, (cached, new) in enumerate(batch)
            ]
            start = time.perf_counter()
            found = await self._cached(prompts)
            seconds = time.perf_counter() - start
            if found == [cached for cached, _ in batch]:
                return seconds
            for number, (cached, _) in enumerate(batch):
                if cached:
                    await self._cached([self._prefix(number, cached)])
        raise ClusterError(
            f"{self._url} had {found} tokens of {[cached for cached, _ in batch]} cached: it is in use, "
            "keeps no cache, or its pool is too small"
        )

    def _prefix(self, number: int, tokens: int) -> list[int]:
        """The beginning of a document, the same one every time."""
        if tokens % self._page_size:
            raise ValueError(f"{tokens} cached tokens are not whole pages of {self._page_size}")
        while len(self._documents) <= number:
            self._documents.append([])
        document = self._documents[number]
        document += self._fresh(tokens - len(document))
        return document[:tokens]

    def _fresh(self, tokens: int) -> list[int]:
        return self._random.choices(self._tokens, k=max(0, tokens))

    async def _cached(self, prompts: list[list[int]]) -> list[int]:
        """Prefills the prompts. Returns how many tokens of each were cached."""
        body = {"input_ids": prompts, "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
        url, timeout = f"{self._url}/generate", aiohttp.ClientTimeout(total=_ANSWER_S)
        try:
            async with self._session.post(url, json=body, timeout=timeout) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterError(f"{url} does not answer: {error or type(error).__name__}") from error
        return [_cached_tokens(url, reply) for reply in (answer if isinstance(answer, list) else [answer])]


def _cached_tokens(url: str, answer: Any) -> int:
    try:
        return int(answer["meta_info"]["cached_tokens"])
    except (KeyError, TypeError, ValueError):
        raise ClusterError(f"{url} gave no meta_info.cached_tokens: {str(answer)[:300]}") from None
