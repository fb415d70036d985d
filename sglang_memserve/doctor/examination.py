from collections.abc import Callable, Iterable

from sglang_memserve.doctor import caching, instances, routing
from sglang_memserve.doctor.alike import alike
from sglang_memserve.doctor.evidence import Evidence
from sglang_memserve.doctor.finding import Finding, Severity

Check = Callable[[Evidence], Iterable[Finding]]

# Each with the text that it gives when it finds nothing wrong.
CHECKS: tuple[tuple[str, str, Check], ...] = (
    ("instances", "all are up", instances.up),
    ("roles", "each runs in the role that the router has for it", instances.roles),
    ("transfer backend", "the same on prefill and decode", instances.both_halves),
    ("alike", "versions, model, tokens and KV layout are the same on all", alike),
    ("caching", "the modes of prefill and decode fit", caching.modes),
    ("radix cache", "present wherever KV is to be kept", caching.trees),
    ("MemPool", "all instances that share a registry know each other", caching.members),
    ("feeds", "the router receives the cache events of all instances that publish them", caching.feeds),
    (
        "router's tokenizer",
        "loaded if the policy needs it, and the same as the instances'",
        routing.tokenizer,
    ),
    ("token parity", "router and engines count the same prompt tokens", routing.parity),
    ("fallbacks", "prompts are tokenised wherever that is possible", routing.fallbacks),
    ("predictions", "prefixes predicted to be cached are cached", routing.predictions),
)


def examine(evidence: Evidence) -> list[Finding]:
    """At least one for each check, in order."""
    findings = []
    for name, good, check in CHECKS:
        findings += list(check(evidence)) or [Finding(name, Severity.OK, good)]
    return findings
