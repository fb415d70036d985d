"""What the cluster's key costs: one measurement of each of its ports, with it or without."""

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
import zmq

from benchmark.feeding import INCARNATION, FeedSource, Tokens, feeding
from benchmark.routing import PAGE, benched, churned_beside, followed, placed, roles, sessions
from mempool.address import Medium
from mempool.config import MemPoolConfig
from mempool.feed.server import FeedServer
from mempool.layout import BlockLayout
from mempool.pool import MemPool
from mempool.security.access import ClusterAccess
from mempool.security.authenticator import Authenticator
from mempool.tiers.tier import dram_arena
from router.instances.instance import Instance, Role
from router.instances.server_info import FeedAt, ServerInfo
from router.kv_events import Feeds
from router.prefix_tree import EventTree
from sglang_memserve.bench.figures import percentile
from sglang_memserve.transfer import control

RUN_BLOCKS = 64
LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=PAGE, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)
_LISTEN = "tcp://127.0.0.1:0"
_WAIT_MS = 20_000
_PROMPT_TOKENS = 4096


def control_round_trip(access: ClusterAccess, calls: int) -> float:
    """Microseconds of one call between two MemPools: half of an allocation at the other, and its end."""
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(
                MemPool(
                    MemPoolConfig(instance=name, access=access), stores={Medium.DRAM: dram_arena(LAYOUT, 64)}
                )
            )
            for name in ("here", "there")
        )
        here.introduce(there.info)
        there.introduce(here.info)

        def call() -> None:
            here.free_mem(here.alloc_mem(1, Medium.DRAM, "there"))

        return _microseconds(call, calls) / 2


def handoff_message(access: ClusterAccess, messages: int) -> float:
    """Microseconds until a destination of decode's is read at prefill's control socket."""
    frames = control.frames(
        control.Destination(
            room=1, endpoint="stream://127.0.0.1:7200", layout=LAYOUT, ticket=1 << 62,
            decode_prefix_len=0, required_destinations=1, is_dummy=False,
        )
    )  # fmt: skip
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with closing(Authenticator(context, access)), context.socket(zmq.PULL) as pull:
        access.serve(pull, _LISTEN)
        pull.bind(_LISTEN)
        with context.socket(zmq.PUSH) as push:
            access.present(push)
            push.linger = 0
            push.connect(pull.getsockopt_string(zmq.LAST_ENDPOINT))

            def send() -> None:
                push.send_multipart(frames)
                if not pull.poll(_WAIT_MS):
                    raise RuntimeError("a message to prefill did not arrive")
                pull.recv_multipart()

            return _microseconds(send, messages)


def feed(access: ClusterAccess, blocks: int) -> float:
    """Seconds until a router has applied `blocks` blocks that came into an instance's HBM."""
    return asyncio.run(_feed(access, blocks))


def decision_beside_feed(access: ClusterAccess, blocks: int, rate: float, seconds: float) -> float:
    """Microseconds of a routing decision, the median, while `rate` blocks a second come in over 64 feeds."""
    return asyncio.run(_decision_beside_feed(access, blocks, rate, seconds))


async def _decision_beside_feed(access: ClusterAccess, blocks: int, rate: float, seconds: float) -> float:
    tree = EventTree(600, 5, 1 << 30)
    where, prompts = benched("prompt_tree", tree), sessions(blocks, _PROMPT_TOKENS)
    place = partial(placed, blocks, _PROMPT_TOKENS)
    with feeding(len(roles()), PAGE, place, access) as source:
        async with followed(where, tree, source, access):
            absorbed = await churned_beside(where, source, prompts, rate, seconds)
    return percentile(absorbed.decisions_us, 0.5)


async def _feed(access: ClusterAccess, blocks: int) -> float:
    source, tree = FeedSource(0, PAGE), EventTree(600, 5, 1 << 26)
    instance = Instance("http://127.0.0.1:30000", Role.COLOCATED)
    instance.up()
    with closing(FeedServer(_LISTEN, source.feeds, access=access)) as server:
        at = FeedAt(server.endpoint, INCARNATION)
        instance.learn(ServerInfo(page_size=PAGE, instance=instance.url, feed=at))
        feeds = Feeds([instance], tree.mirrors, access=access)
        task = asyncio.create_task(feeds.run())
        try:
            tokens = np.random.default_rng(1).integers(
                1, 50_000, (blocks // RUN_BLOCKS, RUN_BLOCKS * PAGE), np.int32
            )
            first, *rest = tokens
            source.insert(Medium.HBM, first)
            await _until(lambda: _knows(tree, first))
            began = time.perf_counter()
            for run in rest:
                source.insert(Medium.HBM, run)
                await asyncio.sleep(0)
            await _until(lambda: _knows(tree, rest[-1]))
            return time.perf_counter() - began
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _knows(tree: EventTree, tokens: Tokens) -> bool:
    """Of a prompt that goes on after them, since the last token is never taken from a cache."""
    return bool(tree.match(np.append(tokens, 1).astype(np.int32), ""))


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


def _microseconds(call: Callable[[], None], times: int) -> float:
    """Of one, after a tenth as many to warm up."""
    for _ in range(max(1, times // 10)):
        call()
    began = time.perf_counter()
    for _ in itertools.repeat(None, times):
        call()
    return (time.perf_counter() - began) / times * 1e6


DECISION = "decision beside 100,000 blocks/s, us"
FEED = "feed of 100,000 blocks, s"
MEASUREMENTS = {
    DECISION: partial(decision_beside_feed, blocks=1 << 16, rate=100_000.0, seconds=2.0),
    "control round trip, us": partial(control_round_trip, calls=1000),
    "handoff message, us": partial(handoff_message, messages=3000),
    FEED: partial(feed, blocks=100_032),
}
"""By what they measure, and its unit. Each takes the access."""
