from collections.abc import Callable, Iterable

from sglang_memserve.doctor import caching, instances, routing
from sglang_memserve.doctor.alike import alike
from sglang_memserve.doctor.evidence import Evidence
from sglang_memserve.doctor.finding import Finding, State

Check = Callable[[Evidence], Iterable[Finding]]

# With what there is to say where a check finds nothing.
CHECKS: tuple[tuple[str, str, Check], ...] = (
    ("instances", "all are up", instances.up),
    ("roles", "all run as what they were given as", instances.roles),
    ("transfer backend", "the same on both sides of the split", instances.both_halves),
    ("alike", "what instances tell of versions, model, tokens and KV is the same on all", alike),
    ("caching", "prefill and decode fit", caching.modes),
    ("radix cache", "there where KV is to be kept", caching.trees),
    ("MemPool", "instances know each other, where they are to", caching.members),
    ("feeds", "none that is followed is silent", caching.feeds),
    ("router's tokenizer", "there if the policy needs it, and like the instances'", routing.tokenizer),
    ("token parity", "router and engines agree on how long prompts are", routing.parity),
    ("fallbacks", "prompts that can be tokenised are", routing.fallbacks),
    ("predictions", "what is predicted to be cached is there", routing.predictions),
)


def examine(evidence: Evidence) -> list[Finding]:
    """At least one for each check, in order."""
    findings = []
    for name, good, check in CHECKS:
        findings += list(check(evidence)) or [Finding(name, State.OK, good)]
    return findings
