"""Instances' feeds without the instances: indexes and their servers, in a process of their own."""

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mempool.address import Addresses, Medium, Owner
from mempool.feed.feed import IndexFeed
from mempool.feed.server import FeedServer
from mempool.index.index import Index
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess

INCARNATION = 1
_NAMESPACE = "[null,null]"
_START_SECONDS = 300.0
_STOP = (0.0, 0.0)
_RUN_BLOCKS = 64

Tokens = npt.NDArray[np.int32]


class Placed(NamedTuple):
    """A prompt that a medium of instance `number` has."""

    number: int
    medium: Medium
    tokens: Tokens


class Churned(NamedTuple):
    """So many blocks came or went, in `seconds`. After that all instances have the prompt `last`, in HBM."""

    blocks: int
    seconds: float
    last: Tokens


@dataclass(frozen=True)
class Feeding:
    """`endpoints`: where each instance publishes its events."""

    endpoints: list[str]
    _pipe: Connection

    def churn(self, blocks_per_second: float, seconds: float) -> Churned:
        """In HBM of all, new runs of 64 blocks take the place of the oldest blocks. Waits for its end."""
        self._pipe.send((blocks_per_second, seconds))
        churned: Churned = self._pipe.recv()
        return churned


@contextmanager
def feeding(
    instances: int, page: int, place: Callable[[], Iterable[Placed]], access: ClusterAccess = LOOPBACK_ONLY
) -> Iterator[Feeding]:
    """`place` is called in the other process: a function that can be imported there.

    `access`: how the feeds are served, by default to everybody on this host.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # As another process would get it: a key is not pickled.
    environ = access.key.to_environment() if access.key else {}
    process = context.Process(target=_serve, args=(there, instances, page, place, environ), daemon=True)
    process.start()
    try:
        if not here.poll(_START_SECONDS):
            raise RuntimeError("the process with the feeds did not start")
        yield Feeding(here.recv(), here)
    finally:
        here.send(_STOP)
        process.join(10)
        process.kill()


def _serve(
    pipe: Connection,
    instances: int,
    page: int,
    place: Callable[[], Iterable[Placed]],
    environ: Mapping[str, str],
) -> None:
    access = ClusterAccess.from_environment(environ)
    sources = [FeedSource(number, page) for number in range(instances)]
    for number, medium, tokens in place():
        sources[number].insert(medium, tokens)
    with ExitStack() as stack:
        servers = [FeedServer("tcp://127.0.0.1:*", source.feeds, access=access) for source in sources]
        for server in servers:
            stack.callback(server.close)
        pipe.send([server.endpoint for server in servers])
        rng = np.random.default_rng(7)
        while (asked := pipe.recv()) != _STOP:
            pipe.send(_churn(sources, rng, *asked))


class FeedSource:
    """One instance's indexes."""

    def __init__(self, number: int, page: int) -> None:
        self.page = page
        self._lock = threading.Lock()
        self._owners = {medium: Owner(str(number), INCARNATION, medium) for medium in Medium}
        self._blocks = itertools.count()
        self._indexes: dict[Medium, Index] = {}
        self.feeds: dict[Medium, IndexFeed] = {}
        for medium in Medium:
            feed = IndexFeed(self._lock, partial(self._current, medium))
            self.feeds[medium] = feed
            self._indexes[medium] = Index(page, on_freed=_ignore, on_event=feed.news)

    def _current(self, medium: Medium) -> tuple[int, Index]:
        return INCARNATION, self._indexes[medium]

    def insert(self, medium: Medium, tokens: Tokens) -> int:
        """How many blocks of it are new."""
        index = self._indexes[medium]
        with self._lock:
            new = len(tokens) // self.page - index.match(_NAMESPACE, tokens).blocks
            blocks = list(itertools.islice(self._blocks, new))
            index.insert(_NAMESPACE, tokens, [Addresses(self._owners[medium], blocks)])
        return new

    def evict(self, blocks: int) -> int:
        with self._lock:
            return self._indexes[Medium.HBM].evict(self._owners[Medium.HBM], blocks)


def _ignore(_: Addresses) -> None:
    pass


def _churn(sources: list[FeedSource], rng: np.random.Generator, rate: float, seconds: float) -> Churned:
    blocks, began = 0, time.perf_counter()
    for source in itertools.cycle(sources):
        if blocks >= rate * seconds:
            break
        time.sleep(max(0.0, blocks / rate - (time.perf_counter() - began)))
        blocks += source.insert(Medium.HBM, _new(rng, _RUN_BLOCKS * source.page))
        blocks += source.evict(_RUN_BLOCKS)
    took, last = time.perf_counter() - began, _new(rng, sources[0].page)
    for source in sources:
        source.insert(Medium.HBM, last)
    return Churned(blocks, took, last)


def _new(rng: np.random.Generator, tokens: int) -> Tokens:
    return rng.integers(1, 50_000, tokens, dtype=np.int32)
