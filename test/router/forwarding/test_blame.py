"""A failed hand-over is charged to the half that it names, not to the one that reports it."""

import json

import pytest
from router_requests import post

from router.protocol import handover

FAST = {"retry_initial_backoff_ms": 1, "disable_retries": True, "cb_failure_threshold": 3}
BODY = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}
REQUEST = "failed for request rank=0 decode_req.req.rid='a' decode_req.req.bootstrap_room=5 with exception "
LOST_PREFILL = (
    f"Decode transfer {REQUEST}KVTransferError(bootstrap_room=5): Lost connection with prefill instance "
    "(bootstrap_addr: 10.0.0.2:8998)"
)
LOST_DECODE = (
    f"Prefill transfer {REQUEST}KVTransferError(bootstrap_room=5): lost the decode instance: transfer with "
    "stream://10.0.0.3:7200: cannot connect: Connection refused"
)
ABORTED = f"Prefill bootstrap {REQUEST}KVTransferError(bootstrap_room=5): aborted by the decode instance"
TIMED_OUT = f"Decode handshake {REQUEST}Request 5 timed out after 300.0s in KVPoll.Bootstrapping"


def failure(message):
    return 500, json.dumps({"error": {"message": message, "code": 500}}).encode()


def in_stream(message):
    return [b"data: " + failure(message)[1] + b"\n\n", b"data: [DONE]\n\n"]


async def circuits(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        by_role = {entry["role"]: entry["circuit"] for entry in (await response.json())["workers"]}
    return by_role["prefill"], by_role["decode"]


async def trouble(cluster):
    """Why prefill gets no requests."""
    async with cluster.session.get(cluster.url + "/workers") as response:
        entries = (await response.json())["workers"]
    return next(entry["trouble"] or "" for entry in entries if entry["role"] == "prefill")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("role", "message", "expected"),
    [
        ("decode", LOST_PREFILL, ("open", "closed")),
        ("prefill", LOST_DECODE, ("closed", "open")),
        # Its own failures stay its own.
        ("decode", LOST_DECODE, ("closed", "open")),
        ("decode", TIMED_OUT, ("closed", "open")),
        ("decode", "out of memory; ask the prefill instance", ("closed", "open")),
        ("prefill", ABORTED, ("closed", "closed")),
    ],
)
async def test_whom_a_failure_names_is_charged(start, role, message, expected, stream):
    cluster = await start(prefill=1, decode=1, **FAST)
    (mock,) = getattr(cluster, role)
    (other,) = cluster.decode if role == "prefill" else cluster.prefill
    other.hold = True
    if stream:
        mock.chunks = in_stream(message)
    else:
        mock.refusal = failure(message)
    for _ in range(3):
        await post(cluster, {**BODY, "stream": stream})
    assert await circuits(cluster) == expected


async def test_another_attempt_goes_past_the_half_that_was_named(start):
    cluster = await start(prefill=2, decode=1, retry_initial_backoff_ms=1)
    for mock in cluster.prefill:
        mock.hold = True
    (decode,) = cluster.decode
    answers = iter([failure(LOST_PREFILL)])
    decode.refusal = lambda raw: next(answers, (200, decode.answer))
    assert (await post(cluster, BODY))[0] == 200
    assert [len(mock.seen) for mock in cluster.prefill] == [1, 1]


async def test_a_server_that_comes_back_begins_anew(start):
    cluster = await start(prefill=1, decode=1, health_check_interval_secs=0.05, **FAST)
    (prefill,), (decode,) = cluster.prefill, cluster.decode
    prefill.hold = True
    decode.refusal = failure(LOST_PREFILL)
    for _ in range(3):
        await post(cluster, BODY)
    assert (await circuits(cluster))[0] == "open"
    # An answered probe says nothing: only another server may begin anew.
    await prefill.probed(2)
    assert (await circuits(cluster))[0] == "open"
    await prefill.die()

    while "refused" not in await trouble(cluster):
        pass
    decode.refusal, prefill.hold = None, False
    await prefill.start()
    await prefill.probed(2)
    assert await circuits(cluster) == ("closed", "closed")
    assert (await post(cluster, BODY))[0] == 200


def test_names_are_found_in_sglangs_words_too():
    for message, role in (
        ("Decode handshake failed for request x Prefill server with bootstrap_addr: a is down", "prefill"),
        ("Prefill transfer failed for request x Decode instance could be dead, remote a", "decode"),
        ("Decode transfer failed for request x", None),
    ):
        assert handover.is_failed_handover(message.encode())
        assert handover.failed_role(message.encode()) == role
