from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.forwarding.retries import Retries
from router.instances import compatibility
from router.instances.registry import Registry
from router.metrics.distribution import PREFIX
from router.scheduling.scheduler import Scheduler

_PARITY = "prompt_tokens_"
# The same numbers as sglang_router's.
_CIRCUIT_STATES = {"closed": 0, "open": 1, "half_open": 2}


class RouterStateCollector:
    """What the router's parts know and count anyway, read when the page is."""

    def __init__(self, registry: Registry, scheduler: Scheduler, retries: Retries) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._retries = retries

    def collect(self) -> Iterator[Metric]:
        yield from self._instances()
        about = "Attempts at requests whose attempt before failed."
        yield CounterMetricFamily(PREFIX + "retries", about, self._retries.count)
        routing = self._scheduler.describe()
        reasons = dict(routing["tokenising"])
        yield CounterMetricFamily(
            PREFIX + "prompts_tokenised", "Prompts with tokens.", reasons.pop("tokenised", 0)
        )
        about = "Prompts that were routed without their tokens, by text or load."
        yield _counted("fallbacks", about, "reason", reasons)
        about = "Whether the engine counted as many prompt tokens as the router."
        counts = routing["answers"].items()
        parity = {name.removeprefix(_PARITY): count for name, count in counts if _PARITY in name}
        yield _counted("answers", about, "prompt_tokens", parity)
        about = "Predictions of cached tokens, by what the engine reported then."
        yield _counted("cached_predictions", about, "outcome", routing["prediction_outcomes"])
        sizes = GaugeMetricFamily(PREFIX + "tree_size", "How large the tree of prompts is.", labels=("of",))
        for name, size in routing["tree"].items():
            sizes.add_metric((name,), size)
        yield sizes

    def _instances(self) -> Iterator[Metric]:
        instances = self._registry.instances
        found = compatibility.by_instance(instances)
        incompatibilities = [len(found.get(instance, ())) for instance in instances]
        circuits = [_CIRCUIT_STATES[instance.breaker.state] for instance in instances]
        for name, about, values in (
            ("healthy", "Whether its probes succeed.", [instance.healthy for instance in instances]),
            ("in_flight", "Requests that it has a part in.", [instance.in_flight for instance in instances]),
            ("charged_tokens", "Tokens charged for these.", [instance.charged for instance in instances]),
            ("incompatibilities", "What differs from most other instances.", incompatibilities),
            ("circuit_state", "Circuit breaker: 0 closed, 1 open (no requests), 2 half-open.", circuits),
        ):
            family = GaugeMetricFamily(f"{PREFIX}instance_{name}", about, labels=("instance", "role"))
            for instance, value in zip(instances, values, strict=True):
                family.add_metric((instance.url, instance.role.value), value)
            yield family


def _counted(name: str, about: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, about, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
