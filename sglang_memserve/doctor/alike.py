"""What has to be the same on all instances."""

from collections.abc import Iterator, Mapping
from typing import Any

from router.instances.agreement import MUST_AGREE
from router.instances.server_info import parse_server_info
from sglang_memserve.doctor.evidence import Evidence, InstanceEvidence, list_of
from sglang_memserve.doctor.finding import Finding, wrong

_MAX_NAMED = 4
_SGLANG = "install the same version on all: the halves of a pair exchange messages that change with it"


def alike(evidence: Evidence) -> Iterator[Finding]:
    versions = {str(instance): instance.info.get("version") for instance in evidence.instances}
    yield from _compared("SGLang's version", versions, _SGLANG)
    for field, agreement in MUST_AGREE.items():
        values = {str(instance): _value(instance, field) for instance in evidence.instances}
        # Without the flag in brackets, which the remedy names too.
        yield from _compared(agreement.name.partition(" (")[0], values, agreement.remedy)
    for instance in evidence.instances:
        # Stock SGLang reports no digests: the router has compared the files themselves, where it could.
        differences = [] if instance.memserve else list_of(instance.worker.get("incompatibilities"))
        for difference in map(str, differences):
            if difference.startswith(("tokenizer", "chat template")):
                yield wrong("tokenizer", f"{instance}: {difference}", "give all the same files of the model")
    versions = {str(instance): instance.memserve.get("version") for instance in evidence.instances}
    versions["the router"] = evidence.router_version
    yield from _compared("MemServe's version", versions, "install the same version on all")


def _value(instance: InstanceEvidence, field: str) -> Any:
    # Stock SGLang's own ways of moving KV fit it to another parallelism.
    if field == "tp_size" and not instance.memserve:
        return None
    return getattr(parse_server_info(instance.info).compatibility, field)


def _compared(check: str, values: Mapping[str, Any], do: str) -> Iterator[Finding]:
    """A finding if values differ; None is not known, and differs from nothing."""
    by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is not None:
            by_value.setdefault(str(value), []).append(name)
    if len(by_value) > 1:
        yield wrong(check, "; ".join(f"{value}: {_named(names)}" for value, names in by_value.items()), do)


def _named(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
