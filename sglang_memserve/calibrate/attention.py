"""The attention that an engine runs, measured by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from router.cost.attention import AttentionRow, Heads, Kernel, PrefillAttention, Request
from router.cost.shape import ModelShape
from router.cost.streams import StreamRow
from sglang_memserve.calibrate.operators import LONG_ENOUGH_S, copies_beyond_caches
from sglang_memserve.calibrate.timing import Call, CallTimer
from sglang_memserve.cpu.attention import NAME as MEMSERVE_CPU
from sglang_memserve.cpu.attention import compute
from sglang_memserve.cpu.attention.plan import DecodeGroup, ExtendPart, plan_decode

TORCH_NATIVE = "torch_native"
BACKENDS = (MEMSERVE_CPU, TORCH_NATIVE)
_NEW = (16, 64, 160, 400, 1024, 1440, 2048, 4096, 6000)
_CACHED = (256, 1024, 2048, 4096, 5600)
PREFILLS: tuple[Request, ...] = tuple(
    sorted(((x, y) for x in (0, *_CACHED) for y in _NEW if x + y <= 6144), key=sum)
)
DECODES = ((100,), (1000,), (6000,), (200,) * 8, (1000,) * 4, (1000,) * 8, (300, 3000))
POOL_TOKENS = 8192
_POOLS = 8


@dataclass(frozen=True)
class Attention:
    """One layer's attention of `shape`, as `backend` computes it, over pools of `page_size`.

    "memserve_cpu" is MemServe's own code for CPUs. "torch_native" gathers K and V and calls torch's kernel,
    as SGLang's backend of that name does: with the query padded to the whole sequence. On a GPU every other
    backend is measured as torch's kernel without padding: its own kernels may be faster.
    """

    shape: ModelShape
    timer: CallTimer
    backend: str
    page_size: int
    units: int

    @property
    def heads(self) -> Heads:
        return self.shape.heads_of(1)

    def kernels(self) -> PrefillAttention:
        """The kernels to fit."""
        rest = Kernel(tile=16, units=self.units)
        if self.backend != MEMSERVE_CPU:
            return PrefillAttention(kernels=(rest,), pads_query=self.backend == TORCH_NATIVE)
        fused = Kernel(tile=16, units=self.units, with_prefix=False, max_scores=compute.FUSED_CAUSAL)
        masked = Kernel(
            tile=16, units=self.units, with_prefix=True, max_scores=compute.FUSED_SCORES, causal=False
        )
        return PrefillAttention(kernels=(fused, masked, rest))

    def prefills(self, sizes: Sequence[Request] = PREFILLS) -> list[AttentionRow]:
        """Measures `sizes`, without those that exceed in both lengths one that took long enough already."""
        pools, rows = self._pools(), list[AttentionRow]()
        long: list[Request] = []
        # The prefix is computed again where the query is padded: one measurement of each length is enough.
        for cached, new in sizes if self.backend != TORCH_NATIVE else [(0, y) for x, y in sizes if not x]:
            if any(cached >= x and new >= y for x, y in long):
                continue
            seconds = self.timer.seconds(self._extend(cached, new, pools))
            rows.append(AttentionRow(((cached, new),), self.heads, seconds))
            if seconds > LONG_ENOUGH_S:
                long.append((cached, new))
        return rows

    def decodes(self, batches: Sequence[Sequence[int]] = DECODES) -> list[StreamRow]:
        """By bytes of K and V, and requests."""
        pools, heads = self._pools(), self.heads
        token_bytes = 2 * heads.kv * heads.dim * self.shape.element_bytes
        return [
            StreamRow(
                token_bytes * sum(contexts), self.timer.seconds(self._decode(contexts, pools)), len(contexts)
            )
            for contexts in batches
        ]

    def _pools(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """K and V of several layers: `[slots, kv_heads, dim]` each."""
        heads, device, dtype = self.heads, self.timer.device, getattr(torch, self.shape.dtype)
        sizes = (POOL_TOKENS, heads.kv, heads.dim)
        size = 2 * POOL_TOKENS * heads.kv * heads.dim * self.shape.element_bytes
        count = copies_beyond_caches(size, min(_POOLS, self.shape.layers))
        return [
            (torch.randn(sizes, device=device).to(dtype), torch.randn(sizes, device=device).to(dtype))
            for _ in range(count)
        ]

    def _query(self, tokens: int) -> torch.Tensor:
        sizes = (tokens, self.heads.query, self.heads.dim)
        return torch.randn(sizes, device=self.timer.device).to(getattr(torch, self.shape.dtype))

    def _slots(self, requests: int, tokens: int) -> torch.Tensor:
        """`[requests, tokens]` slots, page by page at random, as after some hours of service."""
        size = self.page_size
        count = -(-tokens // size)
        pages = torch.stack([torch.randperm(POOL_TOKENS // size)[:count] for _ in range(requests)])
        slots = (pages[..., None] * size + torch.arange(size)).flatten(1)
        return slots[:, :tokens].to(self.timer.device)

    def _extend(self, cached: int, new: int, pools: list[tuple[torch.Tensor, torch.Tensor]]) -> Call:
        query, slots, scale = self._query(new), self._slots(1, cached + new), self.heads.dim**-0.5
        out = torch.empty_like(query)
        if self.backend == MEMSERVE_CPU:
            part = ExtendPart(slice(0, new), cached, slots[0, :: self.page_size] // self.page_size)
            return lambda number: compute.extend(
                query, *pools[number % len(pools)], part, self.page_size, scale, out
            )
        padded = self.backend == TORCH_NATIVE
        return lambda number: plain_extend(query, *pools[number % len(pools)], slots[0], padded)

    def _decode(self, contexts: Sequence[int], pools: list[tuple[torch.Tensor, torch.Tensor]]) -> Call:
        query, slots = self._query(len(contexts)), self._slots(len(contexts), max(contexts))
        if self.backend == MEMSERVE_CPU:
            groups = plan_decode(
                slots, torch.arange(len(contexts)), list(contexts), self.page_size, query.dtype
            )
            return lambda number: self._decode_groups(query, pools[number % len(pools)], groups)
        return lambda number: [
            plain_extend(query[i : i + 1], *pools[number % len(pools)], slots[i, :tokens], padded=False)
            for i, tokens in enumerate(contexts)
        ]

    def _decode_groups(
        self, query: torch.Tensor, pool: tuple[torch.Tensor, torch.Tensor], groups: Sequence[DecodeGroup]
    ) -> None:
        for group in groups:
            compute.decode(query[group.rows], *pool, group, self.page_size, self.heads.dim**-0.5)


def plain_extend(
    query: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, padded: bool
) -> torch.Tensor:
    """`query`: `[new, heads, dim]`, of the last tokens of those at `slots`. Returns the same shape."""
    new, total = len(query), len(slots)
    k, v = (cache[slots].transpose(0, 1)[None] for cache in (k_cache, v_cache))
    q = query.transpose(0, 1)[None]
    if padded and new < total:
        q = torch.cat((q.new_zeros(1, q.shape[1], total - new, q.shape[3]), q), 2)
    mask = None
    if 1 < new < total and not padded:
        mask = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    causal = q.shape[2] == total
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out[0, :, -new:].transpose(0, 1)
