"""What runs in the process that a `Far` starts: an object whose methods are called by name, until input ends.

`python -m benchmark.mempool.end KIND OPTIONS`
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def _channel(**options: Any) -> object:
    from benchmark.mempool.channel_end import ChannelEnd

    return ChannelEnd(**options)


def _socket(**options: Any) -> object:
    from benchmark.mempool.socket_end import SocketEnd

    return SocketEnd(**options)


def _mooncake(**options: Any) -> object:
    from benchmark.mempool.mooncake_end import MooncakeEnd

    return MooncakeEnd(**options)


def _distributed(**options: Any) -> object:
    from benchmark.mempool.dist_end import DistributedEnd

    return DistributedEnd(**options)


def _pool(**options: Any) -> object:
    from benchmark.mempool.pool_end import PoolEnd

    return PoolEnd(**options)


def _index(**options: Any) -> object:
    from benchmark.mempool.index_end import IndexEnd

    return IndexEnd(**options)


# Each imports what it needs alone: a peer's process holds nothing of ours.
KINDS: dict[str, Callable[..., object]] = {
    "channel": _channel,
    "socket": _socket,
    "mooncake": _mooncake,
    "distributed": _distributed,
    "pool": _pool,
    "index": _index,
}


def main() -> None:
    # Ctrl-C is the benchmark's, which then closes this process's input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Libraries that print must not write into the answers.
    os.dup2(2, 1)
    end = KINDS[kind](**options)
    for line in sys.stdin:
        call, arguments = json.loads(line)
        try:
            answer = {"result": getattr(end, call)(**arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)
    # Threads of a transfer engine may not want to end.
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
