"""Part 4: how long a small transfer takes while a large one flows to the same receiver."""

import contextlib
from typing import Any

from benchmark.bars import Bar, at_most
from benchmark.mempool.far import Far
from benchmark.mempool.plan import MeasurementPlan, say
from benchmark.mempool.throughput import ARENA_BYTES, KIB, layout
from sglang_memserve.bench.figures import Rounds, percentile

WORKLOAD = "a 64 KiB transfer beside 1 GB"
ALONE, SAME, OTHER = "nothing else flows", "of the same sender", "of another sender"
ARMS = (ALONE, SAME, OTHER)
BLOCK_BYTES, FLOW_BYTES, FLOWS = 64 * KIB, 10**9, 3
BAR_MS = 10.0
# Few at a time: those during which the flow ends are not counted.
_AT_A_TIME, _ALONE, _TICKETS = 10, 200, 2000


def alone(sender: Far, receiver: Far, endpoint: str) -> list[float]:
    tickets = receiver.ask("expect", blocks=1, transfers=_ALONE)
    return list(sender.ask("send_each", endpoint=endpoint, tickets=tickets))


def beside(flowing: Far, sender: Far, receiver: Far, endpoint: str) -> list[float]:
    """Seconds of each small transfer that both began and ended while the large one was under way."""
    blocks, times = FLOW_BYTES // BLOCK_BYTES, list[float]()
    (ticket,) = receiver.ask("expect", blocks=blocks)
    tickets = receiver.ask("expect", blocks=1, transfers=_TICKETS)
    flowing.ask("begin_flow", endpoint=endpoint, ticket=ticket, blocks=blocks)
    while len(tickets) >= _AT_A_TIME:
        now, tickets = tickets[:_AT_A_TIME], tickets[_AT_A_TIME:]
        batch = sender.ask("send_each", endpoint=endpoint, tickets=now)
        if flowing.ask("flow_is_over"):
            break
        times += batch
    flowing.ask("end_flow")
    receiver.ask("withdraw", tickets=tickets)
    return times


def measure(rounds: Rounds, plan: MeasurementPlan) -> list[str]:
    shape: dict[str, Any] = {"layout": layout(BLOCK_BYTES), "blocks": ARENA_BYTES // BLOCK_BYTES}
    with contextlib.ExitStack() as stack:
        sender, other_sender, receiver = (
            stack.enter_context(Far("channel", f"fairness {name}", plan.logs, **shape))
            for name in ("sender", "other sender", "receiver")
        )
        endpoint = receiver.ask("listen")
        for far in (sender, other_sender):
            alone(far, receiver, endpoint)
        for number, order in enumerate(plan.turns(WORKLOAD, ARMS)):
            say(f"{WORKLOAD}: round {number + 1} of {plan.rounds}")
            times = {arm: one_arm(arm, sender, other_sender, receiver, endpoint) for arm in order}
            for arm in ARMS:
                rounds.note(WORKLOAD, arm, **figures(times[arm]))
    return []


def one_arm(arm: str, sender: Far, other_sender: Far, receiver: Far, endpoint: str) -> list[float]:
    if arm == ALONE:
        return alone(sender, receiver, endpoint)
    small_sender = sender if arm == SAME else other_sender
    return [seconds for _ in range(FLOWS) for seconds in beside(sender, small_sender, receiver, endpoint)]


def figures(seconds: list[float]) -> dict[str, float]:
    """Raises RuntimeError where no small transfer fell into a large one."""
    if not seconds:
        raise RuntimeError(f"{WORKLOAD}: none was done before the large ones were")
    times = [1e3 * each for each in seconds]
    return {
        "p50_ms": percentile(times, 0.5),
        "p99_ms": percentile(times, 0.99),
        "most_ms": max(times),
        "transfers": len(times),
    }


def bars(rounds: Rounds) -> list[Bar]:
    return [
        at_most(f"p99 of {WORKLOAD} {arm}", rounds.median(WORKLOAD, arm, "p99_ms"), BAR_MS, "ms", "-")
        for arm in (SAME, OTHER)
    ]
