"""The operator model fitted on one H100's tables, and how right it is on two and four."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.cost import tables
from benchmark.cost.architecture import ArchitectureFit
from benchmark.cost.tables import LinearRow
from router.cost import CostModel, ModelShape, Profile
from router.cost.attention import Kernel, PrefillAttention
from router.cost.collective import AllReduce, CollectiveRow
from router.cost.gemm import Gemm, GemmRow
from router.cost.streams import MemoryBound, StreamRow

SMS = 132
LLAMA2_7B = ModelShape(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=32,
    head_dim=128,
    intermediate=11_008,
    vocab=32_000,
    dtype="bfloat16",
)
TPS = (2, 4)
# SGLang's attention was not measured with Llama-2-7B's 32 heads: TP=1 is fitted on these. With 16, as on each
# rank of TP=2, it was.
FITTED_HEADS = (24, 40)


def h100_profile(folder: Path) -> Profile:
    """Fitted on rows of TP=1; all-reduce, which TP=1 has not, on every second size of its own table."""
    linear = [row for row in tables.linear_rows(folder) if row.tp == 1]
    gemms = gemm_rows(linear)
    streams = {name: MemoryBound.fit(rows) for name, rows in stream_rows(linear).items()}
    prefills = [row for row in tables.prefill_rows(folder) if row.heads.query in FITTED_HEADS]
    decodes = [row for heads, row in tables.decode_rows(folder) if heads in FITTED_HEADS]
    gemm = Gemm.fit(gemms, SMS, LLAMA2_7B.element_bytes)
    attention = PrefillAttention(kernels=(Kernel(tile=128, units=SMS),)).fit(prefills)
    decode = MemoryBound.fit(decodes)
    return Profile(
        device="NVIDIA H100 80GB HBM3",
        dtype=LLAMA2_7B.dtype,
        gemm=gemm,
        prefill_attention=attention,
        decode_attention=decode,
        streams=streams,
        all_reduce=AllReduce.fit(tables.all_reduce_rows(folder)[::2]),
        transfer=MemoryBound.fit(tables.transfer_rows(folder)),
        errors={
            "gemm": gemm.error(gemms),
            "prefill_attention": attention.kernels[0].error(prefills),
            "decode_attention": decode.error(decodes),
        },
        about={"source": ", ".join(tables.FILES)},
    )


def gemm_rows(linear: Sequence[LinearRow]) -> list[GemmRow]:
    return [
        GemmRow(row.tokens, n, k, row.seconds[name])
        for row in linear
        for name, (n, k) in LLAMA2_7B.projections(row.tp).items()
    ]


def stream_rows(linear: Sequence[LinearRow]) -> dict[str, list[StreamRow]]:
    """By name, of what is bound by memory."""
    found: dict[str, list[StreamRow]] = {}
    for row in linear:
        moved = {name: size for name, (_, size) in LLAMA2_7B.streams(row.tp).items() if name in row.seconds}
        moved["embedding"] = 2 * LLAMA2_7B.hidden * LLAMA2_7B.element_bytes
        for name, size in moved.items():
            found.setdefault(name, []).append(StreamRow(row.tokens * size, row.seconds[name]))
    return found


@dataclass(frozen=True)
class Sums:
    """Seconds of measured operators of a prefill, by TP and count of tokens.

    `computed`: of one rank by itself; `linear`: with all-reduces; `with_attention`: with both.
    """

    computed: dict[int, dict[int, float]] = field(default_factory=dict)
    linear: dict[int, dict[int, float]] = field(default_factory=dict)
    with_attention: dict[int, dict[int, float]] = field(default_factory=dict)


def measured(folder: Path) -> Sums:
    """Vidur's rows as often as the model has the operator; at TP > 1 with two all-reduces a layer.

    An all-reduce of a size between two measured ones is interpolated. `with_attention`, where that was
    measured: at TP=2 with 16 heads; at TP=1 the mean of 24 and 40 heads stands for 32.
    """
    reduces = tables.all_reduce_rows(folder)
    attention = _attention_seconds(folder)
    sums = Sums()
    for row in tables.linear_rows(folder):
        if row.tp not in (1, *TPS):
            continue
        seconds = _layers(row)
        sums.computed.setdefault(row.tp, {})[row.tokens] = seconds
        if row.tp > 1:
            size = row.tokens * LLAMA2_7B.hidden * LLAMA2_7B.element_bytes
            seconds += 2 * LLAMA2_7B.layers * _interpolated(reduces, row.tp, size)
        sums.linear.setdefault(row.tp, {})[row.tokens] = seconds
        if (row.tp, row.tokens) in attention:
            whole = seconds + LLAMA2_7B.layers * attention[row.tp, row.tokens]
            sums.with_attention.setdefault(row.tp, {})[row.tokens] = whole
    return sums


def _layers(row: LinearRow) -> float:
    """All layers' operators but attention and all-reduce."""
    times = {name: count for name, (count, _) in LLAMA2_7B.streams(row.tp).items()}
    layer = sum(times.get(name, 1) * seconds for name, seconds in row.seconds.items() if name != "embedding")
    return LLAMA2_7B.layers * layer + row.seconds["embedding"]


def _attention_seconds(folder: Path) -> dict[tuple[int, int], float]:
    """A layer's attention of one prompt, by TP and tokens."""
    single = {
        (row.heads.query, row.batch[0][1]): row.seconds
        for row in tables.prefill_rows(folder)
        if len(row.batch) == 1
    }
    found = {}
    for heads, tokens in single:
        if heads == LLAMA2_7B.heads // 2:
            found[2, tokens] = single[heads, tokens]
            around = [single[other, tokens] for other in FITTED_HEADS if (other, tokens) in single]
            if len(around) == len(FITTED_HEADS):
                found[1, tokens] = sum(around) / len(around)
    return found


def _interpolated(rows: Sequence[CollectiveRow], ranks: int, size: int) -> float:
    known = sorted({row.bytes: row.seconds for row in rows if row.ranks == ranks}.items())
    sizes, seconds = zip(*known, strict=True)
    return float(np.interp(size, sizes, seconds))


@dataclass(frozen=True)
class Errors:
    """Mean relative errors by TP: of the model by operator, and of the polynomial divided by TP."""

    operators: dict[int, float]
    architecture: dict[int, float]
    lengths: dict[int, int]


def errors(profile: Profile, sums: dict[int, dict[int, float]], without: Collection[str] = ()) -> Errors:
    """Of all TPs in `sums`, both fitted at TP=1; `without` the operators that these do not hold."""
    batches = [((0, tokens),) for tokens in sums[1]]
    polynomial = ArchitectureFit.fit(batches, list(sums[1].values()))
    by_operator: dict[int, float] = {}
    by_architecture: dict[int, float] = {}
    for tp, seconds in sums.items():
        predict = predictor(profile, tp, without)
        by_operator[tp] = _mean_error(seconds, predict)
        by_architecture[tp] = _mean_error(seconds, partial(_divided, polynomial, tp))
    return Errors(by_operator, by_architecture, {tp: len(seconds) for tp, seconds in sums.items()})


def predictor(profile: Profile, tp: int, without: Collection[str]) -> Callable[[int], float]:
    """Seconds by tokens; lm_head has no rows, and is left out in any case."""
    model = CostModel(profile, LLAMA2_7B, tp)

    def seconds(tokens: int) -> float:
        parts = model.operator_seconds([(0, tokens)])
        return sum(value for name, value in parts.items() if name not in {"lm_head", *without})

    return seconds


def _divided(polynomial: ArchitectureFit, tp: int, tokens: int) -> float:
    return polynomial.prefill_seconds(((0, tokens),), tp)


def _mean_error(measured: dict[int, float], predict: Callable[[int], float]) -> float:
    return float(np.mean([abs(predict(tokens) / seconds - 1) for tokens, seconds in measured.items()]))
