"""The /v1/loads of many instances as a single answer, in SGLang's shape for one server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

# A sum of these says nothing.
_AVERAGED = frozenset({
    "token_usage", "cache_hit_rate", "utilization", "accept_length", "accept_rate",
    "kv_transfer_speed_gb_s", "kv_transfer_latency_ms",
})  # fmt: skip
_CAPACITY = "max_total_num_tokens"


def summed_up(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One answer for all: counters added up, ratios averaged (by the size of the KV pool).

    A value that is no number becomes null where instances differ. A request of a prefill/decode pair counts
    on both. `num_accelerators` is the sum over all ranks; each instance gives it for one of its ranks.
    """
    ranks = [load for answer in answers for load in _loads(answer)]
    accelerators = [_number(answer.get("num_accelerators")) * len(_loads(answer)) for answer in answers]
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "version": _common([answer.get("version") for answer in answers]),
        "accelerator": _common([answer.get("accelerator") for answer in answers]),
        "num_accelerators": sum(accelerators),
        "loads": [_merged(ranks, [_number(load.get(_CAPACITY)) for load in ranks])] if ranks else [],
    }


def _loads(answer: dict[str, Any]) -> list[dict[str, Any]]:
    loads = answer.get("loads")
    return [load for load in loads if isinstance(load, dict)] if isinstance(loads, list) else []


def _merged(parts: Sequence[dict[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        pairs = [(part[name], weight) for part, weight in zip(parts, weights, strict=True) if name in part]
        merged[name] = _value(name, [value for value, _ in pairs], [weight for _, weight in pairs])
    return merged


def _value(name: str, values: list[Any], weights: list[float]) -> Any:
    if name == "dp_rank":
        return 0
    if name == "timestamp":
        return max(map(_number, values))
    if all(isinstance(value, dict) for value in values):
        return _merged(values, weights)
    if not all(_is_number(value) for value in values):
        return _common(values)
    if name not in _AVERAGED:
        return sum(values)
    total = sum(weights)
    if total:
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total
    return sum(values) / len(values)


def _common(values: list[Any]) -> Any:
    first, *rest = values
    return first if all(value == first for value in rest) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return value if _is_number(value) else 0
