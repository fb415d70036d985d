from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.instances import compatibility
from router.instances.registry import Registry
from router.metrics.distribution import PREFIX
from router.scheduling.scheduler import Scheduler

_PARITY = "prompt_tokens_"


class State:
    """What the router's parts know and count anyway, read when it is asked for."""

    def __init__(self, registry: Registry, routing: Scheduler) -> None:
        self._registry = registry
        self._routing = routing

    def collect(self) -> Iterator[Metric]:
        yield from self._instances()
        told = self._routing.describe()
        reasons = dict(told["tokenising"])
        yield CounterMetricFamily(
            PREFIX + "prompts_tokenised", "Prompts with tokens.", reasons.pop("tokenised", 0)
        )
        about = "Prompts that were routed without their tokens, by load."
        yield _counted("fallbacks", about, "reason", reasons)
        about = "Whether the engine counted as many prompt tokens as the router."
        parity = {name.removeprefix(_PARITY): n for name, n in told["answers"].items() if _PARITY in name}
        yield _counted("answers", about, "prompt_tokens", parity)
        about = "How predictions of cached tokens fared, and why."
        yield _counted("cached_predictions", about, "fared", told["predictions"])
        sizes = GaugeMetricFamily(PREFIX + "tree_size", "How large the tree of prompts is.", labels=("of",))
        for name, size in told["tree"].items():
            sizes.add_metric((name,), size)
        yield sizes

    def _instances(self) -> Iterator[Metric]:
        instances = self._registry.instances
        incompatibilities = compatibility.by_instance(instances)
        unfit = [len(incompatibilities.get(one, ())) for one in instances]
        for name, about, values in (
            ("healthy", "Whether requests are sent there.", [one.healthy for one in instances]),
            ("in_flight", "Requests that it has a part in.", [one.in_flight for one in instances]),
            ("charged_tokens", "Tokens of these that it is charged.", [one.charged for one in instances]),
            ("misfits", "Traits of it that do not fit the others'.", unfit),
        ):
            family = GaugeMetricFamily(f"{PREFIX}instance_{name}", about, labels=("instance", "role"))
            for one, value in zip(instances, values, strict=True):
                family.add_metric((one.url, one.role.value), value)
            yield family


def _counted(name: str, about: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, about, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
