"""A model's matrices and what is bound by memory, measured one by one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from router.cost.gemm import GemmRow
from router.cost.shape import ModelShape
from router.cost.streams import StreamRow
from sglang_memserve.calibrate.timing import Call, CallTimer

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 8192)
REQUESTS = (1, 2, 4, 8)
BLOCKS = (1, 4, 16, 64, 256)
# An engine comes back to a layer's weights when all other layers have been through the caches.
BEYOND_CACHES = 128 << 20
# Longer inputs are left out once a call takes so long: the formulas are for extrapolating.
LONG_ENOUGH_S = 1.0


@dataclass(frozen=True)
class Measured:
    """Operators of `shape` in `dtype` on the timer's device."""

    shape: ModelShape
    timer: CallTimer

    @property
    def dtype(self) -> torch.dtype:
        found = getattr(torch, self.shape.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def gemms(self) -> list[GemmRow]:
        """All matrices of a layer, and lm_head's for as many tokens as a batch has requests."""
        rows: list[GemmRow] = []
        for n, k in self.shape.projections(1).values():
            rows += self._gemms(TOKENS, n, k)
        rows += self._gemms(REQUESTS, self.shape.vocab, self.shape.hidden)
        return rows

    def streams(self) -> dict[str, list[StreamRow]]:
        """By the names that a profile has."""
        shape = self.shape
        sizes = {name: size for name, (_, size) in shape.streams(1).items()}
        sizes["embedding"] = 2 * shape.hidden * shape.element_bytes
        found: dict[str, list[StreamRow]] = {name: [] for name in sizes}
        for tokens in TOKENS:
            calls = self._stream_calls(tokens)
            for name, size in sizes.items():
                found[name].append(StreamRow(tokens * size, self.timer.seconds(calls[name])))
        return found

    def swap_in(self, page_size: int) -> list[StreamRow]:
        """Aggregated blocks from host memory to the pages of an engine's buffers."""
        shape, pages = self.shape, max(BLOCKS)
        plane = page_size * shape.kv_heads * shape.head_dim * shape.element_bytes
        layout = BlockLayout(
            kind="mha",
            dtype=shape.dtype,
            page_size=page_size,
            layers=shape.layers,
            heads=shape.kv_heads,
            k_plane_bytes=plane,
            v_plane_bytes=plane,
        )
        planes = [
            torch.zeros(pages * plane, dtype=torch.uint8, device=self.timer.device)
            for _ in layout.plane_bytes
        ]
        buffers = PagedBuffers(planes, layout)
        blocks, order = buffers.host_blocks(pages).zero_(), torch.randperm(pages)
        return [
            StreamRow(count * layout.block_bytes, self.timer.seconds(_scatter(buffers, order, blocks, count)))
            for count in BLOCKS
        ]

    def random(self, *sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, device=self.timer.device).to(self.dtype)

    def _gemms(self, counts: Sequence[int], n: int, k: int) -> Iterator[GemmRow]:
        copies = copies_beyond_caches(n * k * self.shape.element_bytes, self.shape.layers)
        weights = [self.random(n, k) for _ in range(copies)]
        for m in counts:
            inputs = self.random(m, k)
            seconds = self.timer.seconds(_linear(inputs, weights))
            yield GemmRow(m, n, k, seconds)
            if seconds > LONG_ENOUGH_S:
                return

    def _stream_calls(self, tokens: int) -> dict[str, Call]:
        shape, heads = self.shape, self.shape.heads_of(1)
        hidden, weight = self.random(tokens, shape.hidden), self.random(shape.hidden)
        query, key = (self.random(tokens, count, heads.dim) for count in (heads.query, heads.kv))
        angles = self.random(tokens, 1, heads.dim // 2)
        gate_up = self.random(tokens, 2 * shape.intermediate)
        pools = [self.random(max(TOKENS), heads.kv, heads.dim) for _ in range(2)]
        places = torch.randperm(max(TOKENS), device=self.timer.device)[:tokens]
        table = self.random(shape.vocab, shape.hidden)
        ids = torch.randint(shape.vocab, (tokens,), device=self.timer.device)
        return {
            "norm": lambda _: rms_norm(hidden, weight),
            "add": lambda _: hidden + hidden,
            "rope": lambda _: (rotated(query, angles), rotated(key, angles)),
            "activation": lambda _: silu_and_mul(gate_up),
            "kv_store": lambda _: [pool.index_copy_(0, places, key) for pool in pools],
            "embedding": lambda _: functional.embedding(ids, table),
        }


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In fp32, as engines without a kernel for it do it. `hidden`: `[tokens, hidden]`."""
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(hidden.dtype) * weight


def rotated(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """`heads`: `[tokens, heads, dim]`; `angles`: `[tokens, 1, dim / 2]`, taken for sine and cosine alike."""
    first, second = heads.chunk(2, -1)
    return torch.cat((first * angles - second * angles, second * angles + first * angles), -1)


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate) * up


def copies_beyond_caches(size: int, max_copies: int) -> int:
    """How many copies of `size` bytes to use in turn, so that none is still in a cache when used again."""
    return max(1, min(max_copies, math.ceil(BEYOND_CACHES / size)))


def _linear(inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> Call:
    return lambda number: functional.linear(inputs, weights[number % len(weights)])


def _scatter(buffers: PagedBuffers, order: torch.Tensor, blocks: torch.Tensor, count: int) -> Call:
    return lambda _: buffers.scatter(order[:count], blocks[:count])
