"""Messages of very many parts: memory that ZeroMQ takes for them is not kept, and the socket serves on."""

import pytest
import zmq
from waiting import until

from benchmark.attack.cluster import running_cluster
from benchmark.attack.honest import HonestClient

SOCKETS = ("registry", "feed", "control", "split")
PARTS, PART, MESSAGES = 100_000, b"x" * 1000, 3
MAX_GROWN_BYTES = 64 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("parts")) as running:
        yield running


def throw(endpoint, kind):
    """Returns when all of it is sent."""
    with zmq.Context() as context, context.socket(zmq.PUSH if kind == "split" else zmq.DEALER) as thrower:
        thrower.setsockopt(zmq.LINGER, 60_000)
        thrower.setsockopt(zmq.SNDTIMEO, 60_000)
        thrower.connect(endpoint)
        for _ in range(MESSAGES):
            thrower.send_multipart([PART] * PARTS)


@pytest.mark.parametrize("kind", SOCKETS)
def test_their_memory_is_given_back(cluster, kind):
    registry, instance, _ = cluster.targets
    hit = registry if kind == "registry" else instance
    hit.look()
    throw(cluster.endpoints[kind], kind)
    until(lambda: hit.verdict()["grown_bytes"] < MAX_GROWN_BYTES, timeout_s=20)
    with HonestClient(cluster.endpoints) as honest:
        until(lambda: all(len(honest.seconds[name]) > 2 for name in ("feed", "transfer")))
    verdict = hit.verdict()
    assert verdict["alive"]
    assert not verdict["threads_ended"]
    assert not verdict["tracebacks"]
    assert verdict["grown_bytes"] < MAX_GROWN_BYTES
