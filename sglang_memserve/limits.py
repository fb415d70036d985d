"""What the transfer backend does not serve, refused at start by name. docs/limits.md has the same table."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mempool.layout import BlockLayout
from sglang_memserve.compat import BACKEND

_FLAG = f"--disaggregation-transfer-backend {BACKEND}"


class Unsupported(ValueError):
    """A configuration of SGLang that MemServe does not serve."""


class Limit(NamedTuple):
    name: str
    asked_for: Callable[[Any], bool]
    instead: str


ARGUMENT_LIMITS = (
    Limit("pipeline parallelism (--pp-size > 1)", lambda a: a.pp_size > 1, "use --tp-size"),
    Limit(
        "data-parallel attention (--enable-dp-attention, --dp-size > 1)",
        lambda a: a.enable_dp_attention or a.dp_size > 1,
        "start more instances behind the router",
    ),
    Limit(
        "speculative decoding (--speculative-algorithm)",
        lambda a: a.speculative_algorithm is not None,
        "leave it out",
    ),
    Limit("HiCache (--enable-hierarchical-cache)", lambda a: a.enable_hierarchical_cache, "leave it out"),
    Limit("LMCache (--enable-lmcache)", lambda a: a.enable_lmcache, "leave it out"),
    Limit(
        "several tokenizer workers (--tokenizer-worker-num > 1)",
        lambda a: a.tokenizer_worker_num > 1,
        "start more instances behind the router",
    ),
    Limit(
        "decode KV offload (--disaggregation-decode-enable-offload-kvcache)",
        lambda a: a.disaggregation_decode_enable_offload_kvcache,
        "leave it out",
    ),
)


def serves_with_memserve(server_args: Any) -> bool:
    return bool(
        server_args.disaggregation_mode != "null" and server_args.disaggregation_transfer_backend == BACKEND
    )


def refuse_unsupported_args(server_args: Any) -> None:
    """Raises Unsupported with every limit that the arguments are beyond."""
    reasons = [f"{x.name}: {x.instead}" for x in ARGUMENT_LIMITS if x.asked_for(server_args)]
    if reasons:
        raise Unsupported(f"{_FLAG} does not serve {'; '.join(reasons)}")


def refuse_unsupported_pool(pool: Any, state_types: list[Any]) -> None:
    """Raises Unsupported unless the KV pool is one plain MHA or MLA pool and holds all of the state."""
    if state_types:
        kinds = ", ".join(getattr(kind, "value", str(kind)) for kind in state_types)
        raise Unsupported(
            f"{_FLAG} does not serve models with state outside of the "
            f"KV blocks (sliding window, Mamba, DSA): this one has {kinds}"
        )
    name = type(pool).__name__
    if name not in ("MHATokenToKVPool", "MLATokenToKVPool"):
        raise Unsupported(
            f"{_FLAG} does not serve a KV pool of the kind {name} "
            "(sliding window, Mamba, DSA, scaled fp4 and fp8 and sharded pools)"
        )
    (info,) = pool.get_device_pool_infos()
    layout = getattr(info.buffer_info.buffers, "layout", None)
    if layout is not None and layout.name != "NHD":
        raise Unsupported(
            f"{_FLAG} does not serve the KV layout {layout.value}: unset SGLANG_USE_HND_KVCACHE"
        )
    if info.buffer_info.scales is not None:
        raise Unsupported(
            f"{_FLAG} does not serve a KV dtype with scales "
            f"({info.buffer_info.dtype}): choose another --kv-cache-dtype"
        )


def refuse_unknown_layout(layout: BlockLayout, kv_item_lens: list[int]) -> None:
    """Raises Unsupported unless SGLang counts the same bytes in a page of each layer's K and V."""
    if list(layout.plane_bytes) != list(kv_item_lens):
        raise Unsupported(
            f"{_FLAG} does not know this KV layout: SGLang has "
            f"{len(kv_item_lens)} buffers with pages of {sorted(set(kv_item_lens))} bytes, not {layout}"
        )
