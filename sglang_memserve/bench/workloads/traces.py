"""Production traces: requests with their times, each a session of one turn."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from sglang_memserve.bench.workloads import reading
from sglang_memserve.bench.workloads.assemble import Draft, assemble
from sglang_memserve.bench.workloads.errors import refused
from sglang_memserve.bench.workloads.form import Workload, WorkloadTurn
from sglang_memserve.bench.workloads.lengths import Scaler
from sglang_memserve.bench.workloads.settings import Settings
from sglang_memserve.bench.workloads.tokens import TokenSource

_MOONCAKE_BLOCK = 512


class _Mooncake(Struct):
    timestamp: Annotated[float, Meta(ge=0)]
    input_length: Annotated[int, Meta(ge=1)]
    output_length: reading.Count
    hash_ids: Annotated[list[reading.Count], Meta(min_length=1)]


class _Azure(Struct):
    TIMESTAMP: datetime
    ContextTokens: reading.Count
    GeneratedTokens: reading.Count


def mooncake(path: Path, settings: Settings) -> Workload:
    """Lines of {"timestamp" (ms), "input_length", "output_length", "hash_ids" (of blocks of 512 tokens)}.

    A block's tokens follow from its hash id: prompts share tokens where they share blocks. The last block is
    cut to the prompt's end. Scaling makes the blocks smaller, and so keeps what is shared.
    """
    return assemble(f"mooncake ({path.name})", settings, _mooncake(path, settings))


def _mooncake(path: Path, settings: Settings) -> Iterator[Draft]:
    tokens, scaled = TokenSource(settings.seed, settings.vocabulary), Scaler(settings.scale)
    block = scaled("block", _MOONCAKE_BLOCK)
    for n, (where, line) in enumerate(reading.json_lines(path, _Mooncake)):
        if len(line.hash_ids) != -(-line.input_length // _MOONCAKE_BLOCK):
            why = f"expected one for each {_MOONCAKE_BLOCK} tokens of {line.input_length}"
            raise refused(where, "hash_ids", line.hash_ids, why)
        *whole, last = line.hash_ids
        rest = line.input_length - len(whole) * _MOONCAKE_BLOCK
        end = min(block, scaled("rest", rest))
        prompt = [token for name in whole for token in tokens(f"block {name}", block)]
        prompt += tokens(f"block {last}", end)
        turn = WorkloadTurn(tuple(prompt), scaled("answer", line.output_length))
        yield Draft(f"mooncake-{n}", [turn], line.timestamp / 1e3)


def azure(path: Path, settings: Settings) -> Workload:
    """Rows of TIMESTAMP, ContextTokens, GeneratedTokens. Prompts share nothing: the trace does not tell."""
    return assemble(f"azure ({path.name})", settings, _azure(path, settings))


def _azure(path: Path, settings: Settings) -> Iterator[Draft]:
    tokens, scaled = TokenSource(settings.seed, settings.vocabulary), Scaler(settings.scale)
    for n, (_, row) in enumerate(reading.csv_lines(path, _Azure)):
        prompt = tokens(f"azure-{n}", scaled("prompt", row.ContextTokens))
        turn = WorkloadTurn(prompt, scaled("answer", row.GeneratedTokens))
        yield Draft(f"azure-{n}", [turn], row.TIMESTAMP.replace(tzinfo=UTC).timestamp())
