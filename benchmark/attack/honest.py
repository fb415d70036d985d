"""A client that asks what it should, of every socket, and notes how long each answer takes."""

import http.client
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import numpy as np
import zmq

from benchmark.attack.instance import pool_of
from mempool.address import Medium
from mempool.feed.messages import FeedRequest, decode_reply, encode

_PAUSE_S = 0.02
_ANSWER_S = 30.0
# So few that the snapshots that it asks for do not grow while it is watched.
_PROMPTS = 64
_BODY = b'{"text": "The capital of France is", "sampling_params": {"max_new_tokens": 3}}'


class HonestClient:
    """`seconds`: of each answer, by what was asked. Raises what goes wrong, when it is closed."""

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._url = endpoints["router"]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._feed = self._context.socket(zmq.DEALER)
        self._feed.setsockopt(zmq.LINGER, 0)
        self._feed.setsockopt(zmq.RCVTIMEO, int(_ANSWER_S * 1000))
        self._feed.connect(endpoints["feed"])
        self._pool = pool_of("honest", endpoints["registry"], 16)
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, ask), daemon=True)
            for name, ask in (("generate", self._generate), ("feed", self._follow), ("transfer", self._send))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._pool.close()
        self._context.destroy(linger=0)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "HonestClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repeat(self, name: str, ask: Callable[[int], None]) -> None:
        try:
            number = 0
            while not self._stopping.wait(_PAUSE_S):
                began = time.perf_counter()
                ask(number := number + 1)
                self.seconds[name].append(time.perf_counter() - began)
        except Exception as error:
            self._error = error

    def _generate(self, _: int) -> None:
        where = urlsplit(self._url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_ANSWER_S)
        connection.request("POST", "/generate", _BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"the router answers an honest client with {answer.status}")

    def _follow(self, number: int) -> None:
        self._feed.send(encode(FeedRequest(number, Medium.DRAM, 0, -1, 1.0)))
        while decode_reply(self._feed.recv()).number != number:
            pass

    def _send(self, number: int) -> None:
        """A block goes to the instance, with its tokens."""
        tokens = np.arange(4, dtype=np.int32) + 10 * (number % _PROMPTS)
        blocks = self._pool.alloc_mem(1, Medium.DRAM)
        self._pool.transfer_with_insert("instance", tokens, blocks, timeout_s=_ANSWER_S)
        self._pool.free_mem(blocks)
