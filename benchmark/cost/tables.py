"""Public tables of operators measured on an H100, as rows for the cost model. Read where they lie.

Vidur's profiles (microsoft/vidur, MIT) and SGLang's attention (aiconfigurator-core, Apache-2.0).
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from router.cost.attention import AttentionRow, Heads
from router.cost.collective import CollectiveRow
from router.cost.streams import StreamRow

LINEAR = "vidur_h100_llama2-7b_mlp.csv"
ALL_REDUCE = "vidur_h100_pairwise_all_reduce.csv"
ATTENTION = "aic_h100_sglang0514_mha_attention.csv"
SEND_RECV = "vidur_h100_dgx_send_recv.csv"
FILES = (LINEAR, ALL_REDUCE, ATTENTION, SEND_RECV)
HEAD_DIM, ELEMENT_BYTES = 128, 2

# The columns of Vidur's table by the model's names of operators. Its two norms are one operator.
COLUMNS = {
    "qkv": ("attn_pre_proj",),
    "o": ("attn_post_proj",),
    "gate_up": ("mlp_up_proj",),
    "down": ("mlp_down_proj",),
    "norm": ("input_layernorm", "post_attention_layernorm"),
    "add": ("add",),
    "rope": ("attn_rope",),
    "activation": ("mlp_act",),
    "embedding": ("emb",),
}


@dataclass(frozen=True)
class LinearRow:
    """Seconds of one operator's call by name, for `tokens` at this TP."""

    tokens: int
    tp: int
    seconds: dict[str, float]


def missing(folder: Path) -> list[str]:
    """The tables that `folder` does not have."""
    return [name for name in FILES if not (folder / name).is_file()]


def linear_rows(folder: Path) -> list[LinearRow]:
    """Llama-2-7B's layer without attention: medians, one row for each count of tokens and TP."""
    found = {}
    for row in _rows(folder / LINEAR):
        tokens, tp = int(row["num_tokens"]), int(row["num_tensor_parallel_workers"])
        seconds = {
            name: _mean([_median(row, column) for column in columns]) for name, columns in COLUMNS.items()
        }
        found[tokens, tp] = LinearRow(tokens, tp, seconds)
    return [found[key] for key in sorted(found)]


def all_reduce_rows(folder: Path) -> list[CollectiveRow]:
    """Between 2 and 4 H100 of a machine whose GPUs are linked in pairs."""
    return [
        CollectiveRow(int(row["size"]), int(row["num_workers"]), _median(row, "all_reduce"))
        for row in _rows(folder / ALL_REDUCE)
    ]


def prefill_rows(folder: Path) -> list[AttentionRow]:
    """SGLang 0.5.14's prefill attention of prompts without a prefix, MHA, by heads and batch."""
    return [
        AttentionRow(((0, tokens),) * batch, Heads(heads, heads, HEAD_DIM), seconds)
        for heads, batch, tokens, seconds in _attention(folder, "prefill")
    ]


def decode_rows(folder: Path) -> list[tuple[int, StreamRow]]:
    """SGLang 0.5.14's decode attention: heads, and bytes of the K and V that a step reads."""
    return [
        (heads, StreamRow(2 * heads * HEAD_DIM * ELEMENT_BYTES * batch * tokens, seconds, batch))
        for heads, batch, tokens, seconds in _attention(folder, "decode")
    ]


def transfer_rows(folder: Path) -> list[StreamRow]:
    """NCCL's send and receive between two H100 of one machine."""
    return [
        StreamRow(int(row["size"]), _median(row, "send_recv"))
        for row in _rows(folder / SEND_RECV)
        if row["devices_per_node"] == "2"
    ]


def _attention(folder: Path, phase: str) -> Iterator[tuple[int, int, int, float]]:
    for row in _rows(folder / ATTENTION):
        if row["phase"] == phase:
            yield (
                int(row["num_heads"]),
                int(row["batch"]),
                int(row["isl_or_ctx"]),
                1e-3 * float(row["latency_ms"]),
            )


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(newline="") as lines:
        yield from csv.DictReader(lines)


def _median(row: dict[str, str], operator: str) -> float:
    return 1e-3 * float(row[f"time_stats.{operator}.median"])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
