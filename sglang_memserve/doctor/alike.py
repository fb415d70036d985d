"""What has to be the same on all instances."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sglang_memserve.doctor.evidence import Evidence, Told, list_of
from sglang_memserve.doctor.finding import Finding, wrong

_MOST_NAMED = 4


class _Alike(NamedTuple):
    check: str
    value: Callable[[Told], Any]
    do: str


_ALIKE = (
    _Alike(
        "SGLang's version",
        lambda one: one.info.get("version"),
        "install the same version on all: what halves of a pair tell each other changes with it",
    ),
    _Alike(
        "model",
        lambda one: one.memserve.get("model"),
        "start all with the same --model-path; where folders differ, compare config.json and weights",
    ),
    _Alike(
        "tokenizer",
        lambda one: one.memserve.get("tokenizer"),
        "give all the same tokenizer.json (--tokenizer-path): other tokens find no KV",
    ),
    _Alike(
        "chat template",
        lambda one: one.memserve.get("template"),
        "give all the same --chat-template, or the same files of the model: other prompts find no KV",
    ),
    _Alike("page size", lambda one: one.info.get("page_size"), "start all with the same --page-size"),
    _Alike(
        "KV dtype",
        lambda one: one.memserve.get("kv_dtype"),
        "start all with the same --dtype and --kv-cache-dtype; auto follows the device",
    ),
    _Alike(
        "--kv-cache-dtype",
        lambda one: None if "kv_dtype" in one.memserve else one.info.get("kv_cache_dtype"),
        "start all with the same",
    ),
    _Alike(
        "tensor parallelism",
        # SGLang's other ways of moving KV cut it anew.
        lambda one: one.info.get("tp_size") if one.memserve else None,
        "start all with the same --tp-size: a block of one layout is not cut for another yet",
    ),
)


def alike(evidence: Evidence) -> Iterator[Finding]:
    for one in _ALIKE:
        values = {told: value for told in evidence.instances if (value := one.value(told)) is not None}
        yield from _compared(one.check, {str(told): value for told, value in values.items()}, one.do)
    for told in evidence.instances:
        # Of stock SGLang the router has looked at the files themselves, where it could.
        for misfit in [] if told.memserve else map(str, list_of(told.worker.get("incompatibilities"))):
            if misfit.startswith(("tokenizer", "chat template")):
                yield wrong("tokenizer", f"{told}: {misfit}", "give all the same files of the model")
    versions = {str(told): told.memserve.get("version") for told in evidence.instances}
    versions["the router"] = evidence.router_version
    known = {who: version for who, version in versions.items() if version is not None}
    yield from _compared("MemServe's version", known, "install the same version on all")


def _compared(check: str, values: Mapping[str, Any], do: str) -> Iterator[Finding]:
    by_value: dict[str, list[str]] = {}
    for who, value in values.items():
        by_value.setdefault(str(value), []).append(who)
    if len(by_value) > 1:
        yield wrong(check, "; ".join(f"{value}: {_named(who)}" for value, who in by_value.items()), do)


def _named(who: list[str]) -> str:
    more = len(who) - _MOST_NAMED
    return ", ".join(who[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
