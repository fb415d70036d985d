"""An instance without an engine: a MemPool, its feed, and the listener of the split, each on its own socket.

`python -m benchmark.attack.instance REGISTRY` prints where they listen, as one line of JSON, and serves.
"""

import json
import logging
import signal
import sys

import numpy as np
import zmq

from benchmark.attack.messages import LAYOUT
from mempool.address import Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.feed.server import FeedServer
from mempool.pool import MemPool
from mempool.sockets import SocketLimits, set_bounds
from sglang_memserve.transfer.control import MAX_BYTES, decode_control
from sglang_memserve.transfer.control_listener import ControlListener

_BLOCKS = 4096
_PUBLISHED_TOKENS = 4000


def pool_of(name: str, registry: str, blocks: int) -> MemPool:
    config = MemPoolConfig(instance=name, registries=[registry])
    return MemPool(config, stores={Medium.DRAM: DramArena(LAYOUT, blocks)})


def _publish(pool: MemPool) -> None:
    """Some blocks, so that the feed has something to tell."""
    tokens = np.arange(_PUBLISHED_TOKENS, dtype=np.int32)
    pool.insert(tokens, pool.alloc_mem(len(tokens) // LAYOUT.page_size, Medium.DRAM))


def _listener(context: "zmq.Context[zmq.Socket[bytes]]") -> tuple[ControlListener, str]:
    """What prefill listens with for decode's messages: each is decoded, and none is acted upon."""
    socket = context.socket(zmq.PULL)
    url = "tcp://127.0.0.1:*"
    set_bounds(socket, url, SocketLimits())
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    socket.bind(url)
    listener = ControlListener(socket, _decoded, lambda: None)
    return listener, socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _decoded(frames: list[bytes], _: str) -> None:
    decode_control(frames)


def main(registry: str) -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    with pool_of("instance", registry, _BLOCKS) as pool, zmq.Context() as context:
        _publish(pool)
        feed = FeedServer("tcp://127.0.0.1:0", {Medium.DRAM: pool.local.feed})
        listener, split = _listener(context)
        info = pool.info
        where = {"control": info.control, "data": info.data, "feed": feed.endpoint, "split": split}
        print(json.dumps(where), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
        listener.close()
        feed.close()
        context.destroy(linger=0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main(sys.argv[1])
