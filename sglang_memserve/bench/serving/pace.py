"""How much load a system that runs already is to get, where the user has not said it."""

import time
from collections.abc import Sequence

import aiohttp

from sglang_memserve.bench.serving import admin
from sglang_memserve.bench.serving.answer import RequestError
from sglang_memserve.bench.serving.apis import APIS, RequestSettings
from sglang_memserve.bench.serving.arms import Arm
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.serving.options import CPU_LOAD, GPU_LOAD, BenchOptions, Load
from sglang_memserve.bench.workloads.form import WorkloadTurn

# A prompt that takes a CPU most of a second, and a GPU a few hundredths.
_PROMPT_TOKENS = 512
_VOCABULARY = (1000, 40_000)
_QUICK_S = 0.25
_PROBE_S = 10.0


async def load_for(
    options: BenchOptions, arms: Sequence[Arm], session: aiohttp.ClientSession
) -> tuple[Load, str]:
    """A load that every one of the running `arms` can bear, and the reason for it.

    A system that reports its device is believed. Any other gets two short requests, and a GPU's load if the
    quicker of them is answered as fast as a GPU does.
    """
    reasons = []
    for arm in arms:
        gentle, reason = await _bears_little(arm, options, session)
        if gentle:
            return CPU_LOAD, reason
        reasons.append(reason)
    return GPU_LOAD, ", ".join(reasons)


async def _bears_little(arm: Arm, options: BenchOptions, session: aiohttp.ClientSession) -> tuple[bool, str]:
    if found := await admin.devices(session, arm.url):
        return "cpu" in found, f"{arm.name} computes on {' and '.join(sorted(found))}"
    seconds = await _first_token_s(Client(session, arm.url, _PROBE_S), options)
    if seconds is None:
        return True, f"{arm.name} did not answer a first request"
    return (
        seconds > _QUICK_S,
        f"{arm.name} took {seconds:.2f} s to the first token of {_PROMPT_TOKENS} tokens",
    )


async def _first_token_s(client: Client, options: BenchOptions) -> float | None:
    """Of two requests the quicker one: what happens only once may slow the first. None: not answered."""
    found = []
    for number in range(2):
        low, high = options.vocabulary or _VOCABULARY
        # Never the same prompt twice: a cache would answer it.
        start = time.time_ns() // 1_000_000 + number
        tokens = tuple(low + (start + n) % (high - low) for n in range(_PROMPT_TOKENS))
        turn = WorkloadTurn(tokens, 2, f"{start} " + "word " * (_PROMPT_TOKENS - 8))
        conversation = APIS[options.api](RequestSettings(options.request_model, options.ignore_eos), "probe")
        try:
            answer = await client.ask(conversation, conversation.ask(turn))
        except RequestError:
            return None
        found.append(answer.ttft)
    return min(found)
