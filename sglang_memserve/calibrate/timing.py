"""How long a call takes on a device."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Called with the number of the call: so that not every one finds its weights in the caches.
Call = Callable[[int], object]


@dataclass(frozen=True)
class CallTimer:
    """Median seconds of a call, over `min_calls` or more: up to `max_calls` that take under `budget_s`."""

    device: torch.device
    budget_s: float = 0.15
    min_calls: int = 3
    max_calls: int = 50

    def seconds(self, call: Call) -> float:
        timed = self._on_cuda if self.device.type == "cuda" else self._on_host
        timed(call, 0)
        times: list[float] = []
        while len(times) < self.min_calls or (len(times) < self.max_calls and sum(times) < self.budget_s):
            times.append(timed(call, len(times) + 1))
        return statistics.median(times)

    def _on_host(self, call: Call, number: int) -> float:
        start = time.perf_counter()
        call(number)
        return time.perf_counter() - start

    def _on_cuda(self, call: Call, number: int) -> float:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begun.record()
        call(number)
        ended.record()
        torch.cuda.synchronize(self.device)
        return 1e-3 * float(begun.elapsed_time(ended))
