"""Which half of a pair a client hears, without sockets."""

import asyncio

import pytest

from router.errors import InstanceFailed
from router.forwarding.pair import _first_answer
from router.protocol.answer import UpstreamAnswer


async def ending_at_once(prefill, decode):
    """What comes of two halves that end in the same round of the event loop."""
    gate = asyncio.Event()

    async def half(result):
        await gate.wait()
        if isinstance(result, Exception):
            raise result
        return result

    tasks = [asyncio.create_task(half(result)) for result in (prefill, decode)]
    first = asyncio.create_task(_first_answer(*tasks))
    # One round, in which each task comes to where it waits.
    await asyncio.sleep(0)
    gate.set()
    return await first


async def test_an_answer_outweighs_prefills_failure_at_the_same_moment():
    answer = UpstreamAnswer(200, {}, b"")
    assert await ending_at_once(InstanceFailed("prefill broke off"), answer) is answer


async def test_when_both_halves_fail_at_once_prefills_failure_counts():
    with pytest.raises(InstanceFailed, match="prefill broke off"):
        await ending_at_once(InstanceFailed("prefill broke off"), InstanceFailed("decode broke off"))
