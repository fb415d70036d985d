"""What serving a prompt on one instance is predicted to cost."""

from __future__ import annotations

from typing import NamedTuple

from router.instances.instance import Instance


class Fetch(NamedTuple):
    """The prompt's first `tokens` tokens, from the MemPool of `source`.

    After `deadline_ms` of waiting, computing them would have been quicker.
    """

    source: Instance
    tokens: int
    deadline_ms: float


class PrefillPlan(NamedTuple):
    """How an instance gets the KV of a prompt, in seconds: fetch into DRAM, copy to HBM, compute the rest.

    `marginal_compute_s`: what computing adds to a forward that other requests are in. `uncorrected_s`:
    computing as the operators predict it, without the instance's own factor. `source_busy_s`: how long a
    fetch keeps its source busy.
    """

    fetch_s: float
    swap_in_s: float
    compute_s: float
    marginal_compute_s: float
    uncorrected_s: float
    fetch: Fetch | None = None
    source_busy_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.fetch_s + self.swap_in_s + self.compute_s


class CostEstimate(NamedTuple):
    """One instance's part in a request, in seconds.

    `queue_s`: the prefills before it; `send_s`: from P to D, the KV of the prompt that D lacks; `decode_s`:
    the steps of the answer; `total_s`: all of these and the plan. A decode instance has `send_s` and
    `decode_s` alone, and its `plan` is None.
    """

    plan: PrefillPlan | None
    queue_s: float
    send_s: float
    decode_s: float
    total_s: float

    @property
    def busy_s(self) -> float:
        """How long its prefill keeps the instance busy. Prompts that wait together share one forward."""
        plan = self.plan
        if plan is None:
            return 0.0
        return plan.swap_in_s + (plan.marginal_compute_s if self.queue_s else plan.compute_s)

    @property
    def until_prefilled_s(self) -> float:
        """From now until prefill is over, and D has the KV."""
        return self.total_s - self.decode_s
