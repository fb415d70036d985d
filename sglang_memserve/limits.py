"""The configurations that MemServe does not serve, refused at start by name. docs/limits.md lists them."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mempool.flags import TransferMode
from mempool.layout import BlockLayout
from sglang_memserve.compat import BACKEND
from sglang_memserve.options import InstanceOptions

_MEMORY_POOL_VARIABLE = "SGLANG_MOONCAKE_CUSTOM_MEM_POOL"


class Unsupported(ValueError):
    """A configuration of SGLang that MemServe does not serve: what was given, why not, and what to do."""


class Limit(NamedTuple):
    """A feature that arguments may ask for.

    `name`: with its flags, as docs/limits.md has it. `flags`: those that ask for it, as they were given; none
    where it is not asked for. `reason`: why it is not served. `remedy`: what to do instead.
    """

    name: str
    flags: Callable[[Any], Iterator[str]]
    reason: str
    remedy: str


def _above_one(*names: str) -> Callable[[Any], Iterator[str]]:
    """`names`: of flags that take a number."""

    def given(args: Any) -> Iterator[str]:
        for name in names:
            value = getattr(args, name)
            if value > 1:
                yield f"{_flag(name)} {value}"

    return given


def _switched_on(name: str) -> Callable[[Any], Iterator[str]]:
    return lambda args: iter([_flag(name)] if getattr(args, name) else [])


def _dp_attention(args: Any) -> Iterator[str]:
    yield from _switched_on("enable_dp_attention")(args)
    yield from _above_one("dp_size")(args)


def _speculative(args: Any) -> Iterator[str]:
    if args.speculative_algorithm is not None:
        yield f"--speculative-algorithm {args.speculative_algorithm}"


def _memory_pool(args: Any) -> Iterator[str]:
    if kind := os.environ.get(_MEMORY_POOL_VARIABLE):
        yield f"{_MEMORY_POOL_VARIABLE}={kind}"


def _halved_batches_by_layer(args: Any) -> Iterator[str]:
    if InstanceOptions.from_environment().transfer == TransferMode.BY_LAYER:
        yield from _switched_on("enable_two_batch_overlap")(args)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


ARGUMENT_LIMITS = (
    Limit(
        "pipeline parallelism (--pp-size > 1)",
        _above_one("pp_size"),
        "each stage has the KV of some layers only",
        "use --tp-size",
    ),
    Limit(
        "data-parallel attention (--enable-dp-attention, --dp-size > 1)",
        _dp_attention,
        "each rank has a KV pool and a cache of its own",
        "start more instances behind the router",
    ),
    Limit(
        "speculative decoding (--speculative-algorithm)",
        _speculative,
        "the KV of the draft model is not transferred",
        "leave it out",
    ),
    Limit(
        "HiCache (--enable-hierarchical-cache)",
        _switched_on("enable_hierarchical_cache"),
        "MemServe has a host tier of its own, --memserve-dram",
        "leave it out",
    ),
    Limit(
        "LMCache (--enable-lmcache)",
        _switched_on("enable_lmcache"),
        "MemServe has a host tier of its own, --memserve-dram",
        "leave it out",
    ),
    Limit(
        "several tokenizer workers (--tokenizer-worker-num > 1)",
        _above_one("tokenizer_worker_num"),
        "SGLang loads no plug-ins in them",
        "start more instances behind the router",
    ),
    Limit(
        "decode KV offload (--disaggregation-decode-enable-offload-kvcache)",
        _switched_on("disaggregation_decode_enable_offload_kvcache"),
        "MemServe has a host tier of its own, --memserve-dram",
        "leave it out",
    ),
    Limit(
        "memory that is given back while it serves (--enable-memory-saver)",
        _switched_on("enable_memory_saver"),
        "SGLang unmaps KV that may be on its way",
        "leave it out",
    ),
    Limit(
        f"Mooncake's memory pools ({_MEMORY_POOL_VARIABLE})",
        _memory_pool,
        "they put what MemServe reads on the host into device memory",
        "unset it",
    ),
    Limit(
        "two-batch overlap (--enable-two-batch-overlap) with --memserve-transfer by-layer",
        _halved_batches_by_layer,
        "a layer would be sent when half of its batch is written",
        "leave out --memserve-transfer",
    ),
)


def serves_with_memserve(server_args: Any) -> bool:
    """Whether the server is a prefill or decode instance with MemServe's transfer."""
    return bool(
        server_args.disaggregation_mode != "null" and server_args.disaggregation_transfer_backend == BACKEND
    )


def refuse_unsupported_args(server_args: Any) -> None:
    """Raises Unsupported with every limit that the arguments are beyond."""
    refusals = []
    for limit in ARGUMENT_LIMITS:
        given = " ".join(limit.flags(server_args))
        if given:
            refusals.append(f"{given} ({limit.reason}): {limit.remedy}")
    if refusals:
        raise Unsupported(f"MemServe does not serve {'; '.join(refusals)}")


def refuse_unsupported_pool(pool: Any, state_types: list[Any]) -> None:
    """Raises Unsupported unless the KV pool is one plain MHA or MLA pool and holds all of the state."""
    if state_types:
        kinds = ", ".join(getattr(kind, "value", str(kind)) for kind in state_types)
        raise Unsupported(
            f"MemServe does not serve a model with {kinds} state (state outside of the KV pool is not "
            "transferred): use a model without sliding windows, Mamba or DSA layers"
        )
    name = type(pool).__name__
    if name not in ("MHATokenToKVPool", "MLATokenToKVPool"):
        raise Unsupported(
            f"MemServe does not serve a KV pool of the kind {name} (only plain MHA and MLA pools are "
            "transferred): use a model without sliding windows, Mamba or DSA layers, and a --kv-cache-dtype "
            "without scales"
        )
    (info,) = pool.get_device_pool_infos()
    layout = getattr(info.buffer_info.buffers, "layout", None)
    if layout is not None and layout.name != "NHD":
        raise Unsupported(
            f"MemServe does not serve the KV layout {layout.value} (its pages are laid out by heads): "
            "unset SGLANG_USE_HND_KVCACHE"
        )
    if info.buffer_info.scales is not None:
        raise Unsupported(
            f"MemServe does not serve the KV dtype {info.buffer_info.dtype} (scales are not transferred): "
            "choose another --kv-cache-dtype"
        )


def refuse_unknown_layout(layout: BlockLayout, kv_item_lens: list[int]) -> None:
    """Raises Unsupported unless SGLang counts the same bytes in a page of each layer's K and V."""
    if list(layout.plane_bytes) != list(kv_item_lens):
        raise Unsupported(
            f"MemServe does not know this KV layout: SGLang has {len(kv_item_lens)} buffers with pages of "
            f"{sorted(set(kv_item_lens))} bytes, and MemServe expects {layout}: use a tested SGLang"
        )
