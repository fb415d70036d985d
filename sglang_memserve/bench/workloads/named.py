"""Workloads by name: generated, or read where a directory of traces has the file.

| name | file, the preferred one first |
|---|---|
| sharegpt | ShareGPT_V3_unfiltered_cleaned_split.json (*), sharegpt_v3_sessions_llama2tok.jsonl |
| loogle | loogle_test_shortdep_qa.jsonl (*), loogle_test_longdep_qa.jsonl (*) |
| react | react_hotpotqa_fireact_llama2tok.jsonl, and for its prefix react_prompts_naive.json (*) |
| no-sharing | none |
| mooncake | mooncake_conversation_trace.jsonl, cannot be generated |
| azure | azure_llm_2023_conv.csv, cannot be generated |

(*) with a tokenizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.bench.workloads.loogle import LoogleSettings, loogle, loogle_texts
from sglang_memserve.bench.workloads.no_sharing import NoSharingSettings, no_sharing
from sglang_memserve.bench.workloads.react import ReactSettings, react, react_lengths
from sglang_memserve.bench.workloads.reading import checked
from sglang_memserve.bench.workloads.settings import Settings
from sglang_memserve.bench.workloads.sharegpt import (
    ShareGptSettings,
    sharegpt,
    sharegpt_lengths,
    sharegpt_texts,
)
from sglang_memserve.bench.workloads.tokens import TextEncoder
from sglang_memserve.bench.workloads.traces import azure, mooncake

_REACT_PROMPTS = "react_prompts_naive.json"


@dataclass(frozen=True)
class _TraceFile:
    """A file that a workload is read from by `load(path, settings, tokenizer)`."""

    file: str
    load: Callable[[Path, Any, Any], Workload]
    needs_tokenizer: bool = False


@dataclass(frozen=True)
class _WorkloadKind:
    settings: type[Settings]
    generate: Callable[[Any], Workload] | None = None
    sources: tuple[_TraceFile, ...] = ()


def workload(
    name: str, options: Mapping[str, Any], traces: Path | None = None, tokenizer: TextEncoder | None = None
) -> Workload:
    """The workload `name` with `options`, the fields of its settings (see `option_names`), also as text.

    It is read from the first of its files that `traces` holds (see `trace_files`), and generated where there
    is none; the workload's name then says which file. Raises WorkloadError for a name, an option or a value
    that is not known, for a workload that cannot be generated without its file, and for bad data.
    """
    kind = _kind(name)
    if unknown := sorted(set(options) - set(option_names(name))):
        raise WorkloadError(f"{name} has no option {unknown[0]!r}: it takes {', '.join(option_names(name))}")
    settings = checked(name, dict(options), kind.settings, strict=False)
    if traces is not None and (source := _found(name, traces, tokenizer)):
        return source.load(traces / source.file, settings, tokenizer)
    if kind.generate is None:
        files = " or ".join(trace_files(name))
        raise WorkloadError(f"{name} is a trace: give the directory that holds {files}, not {traces}")
    return kind.generate(settings)


def workload_names() -> tuple[str, ...]:
    return tuple(_kinds())


def option_names(name: str) -> tuple[str, ...]:
    """The options of a workload. Raises WorkloadError for an unknown one."""
    return tuple(field.name for field in fields(_kind(name).settings))


def trace_files(name: str) -> tuple[str, ...]:
    """The files that a workload is read from, the preferred one first. Raises WorkloadError as above."""
    return tuple(source.file for source in _kind(name).sources)


def _kind(name: str) -> _WorkloadKind:
    try:
        return _kinds()[name]
    except KeyError:
        raise WorkloadError(f"unknown workload {name!r}: known are {', '.join(_kinds())}") from None


def _found(name: str, traces: Path, tokenizer: TextEncoder | None) -> _TraceFile | None:
    if not traces.is_dir():
        raise WorkloadError(f"{traces} is no directory of traces")
    there = [source for source in _kind(name).sources if (traces / source.file).is_file()]
    usable = [source for source in there if tokenizer or not source.needs_tokenizer]
    if there and not usable:
        raise WorkloadError(f"{name}: reading {there[0].file} needs a tokenizer: give one, or no traces")
    return usable[0] if usable else None


def _kinds() -> dict[str, _WorkloadKind]:
    return {
        "sharegpt": _WorkloadKind(
            ShareGptSettings,
            sharegpt,
            (
                _TraceFile("ShareGPT_V3_unfiltered_cleaned_split.json", sharegpt_texts, needs_tokenizer=True),
                _TraceFile(
                    "sharegpt_v3_sessions_llama2tok.jsonl", lambda path, s, _: sharegpt_lengths(path, s)
                ),
            ),
        ),
        "loogle": _WorkloadKind(
            LoogleSettings,
            loogle,
            (
                _TraceFile("loogle_test_shortdep_qa.jsonl", loogle_texts, needs_tokenizer=True),
                _TraceFile("loogle_test_longdep_qa.jsonl", loogle_texts, needs_tokenizer=True),
            ),
        ),
        "react": _WorkloadKind(
            ReactSettings, react, (_TraceFile("react_hotpotqa_fireact_llama2tok.jsonl", _react),)
        ),
        "no-sharing": _WorkloadKind(NoSharingSettings, no_sharing),
        "mooncake": _WorkloadKind(
            Settings,
            None,
            (_TraceFile("mooncake_conversation_trace.jsonl", lambda path, s, _: mooncake(path, s)),),
        ),
        "azure": _WorkloadKind(
            Settings, None, (_TraceFile("azure_llm_2023_conv.csv", lambda path, s, _: azure(path, s)),)
        ),
    }


def _react(path: Path, settings: ReactSettings, tokenizer: TextEncoder | None) -> Workload:
    prompts = path.with_name(_REACT_PROMPTS)
    return react_lengths(path, settings, prompts if prompts.is_file() else None, tokenizer)
