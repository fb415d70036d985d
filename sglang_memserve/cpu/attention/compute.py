"""Attention over paged K and V `[slots, kv_heads, dim]`, for queries `[tokens, heads, dim]`, in plain torch.

Query heads that share a KV head are laid out as more queries of that head: K and V are never repeated.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import scaled_dot_product_attention

from sglang_memserve.cpu.attention.plan import DecodeGroup, ExtendPart

# Up to so many scores, torch's fused kernel computes an extend whole: as fast as in blocks, and rounded
# exactly as torch_native's.
FUSED_SCORES = 1 << 19
# The same for a prompt without a prefix, of up to 1,448 tokens: there equal answers to torch_native's matter
# more than time. Longer prompts are computed in blocks, in less than half of the time.
FUSED_CAUSAL = 1 << 21
# Queries of a block: as many as multiply fastest; fewer where their scores would need more memory than this.
SCORE_BYTES = 32 << 20
BLOCK_ROWS = range(32, 97)


def gather(cache: torch.Tensor, pages: torch.Tensor, page_size: int) -> torch.Tensor:
    """`cache` `[slots, kv_heads, dim]` at `pages` `[..., n]`: `[..., n * page_size, kv_heads, dim]`."""
    by_page = cache.view(cache.shape[0] // page_size, -1)
    found = by_page.index_select(0, pages.flatten())
    return found.view(*pages.shape[:-1], pages.shape[-1] * page_size, *cache.shape[1:])


def decode(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    group: DecodeGroup,
    page_size: int,
    scale: float,
) -> torch.Tensor:
    """One token of each of the group's requests against all of its KV. `query`: the group's rows."""
    requests, heads, dim = query.shape
    keys, values = (
        gather(cache, group.pages, page_size)[:, : group.tokens].to(query.dtype).transpose(1, 2)
        for cache in (k_cache, v_cache)
    )
    shared = query.reshape(requests, keys.shape[1], -1, dim)
    out = scaled_dot_product_attention(shared, keys, values, attn_mask=group.mask, scale=scale)
    return out.reshape(requests, heads, -1)


def extend(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    part: ExtendPart,
    page_size: int,
    scale: float,
    out: torch.Tensor,
) -> None:
    """A request's new tokens against its prefix and, causally, themselves. `query`, `out`: its rows."""
    total = part.prefix + len(query)
    keys = gather(k_cache, part.pages, page_size)[:total]
    values = gather(v_cache, part.pages, page_size)[:total]
    whole = len(query) * total <= (FUSED_SCORES if part.prefix else FUSED_CAUSAL)
    (_extend_whole if whole else _extend_in_blocks)(query, keys, values, part.prefix, scale, out)


def _extend_whole(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix: int,
    scale: float,
    out: torch.Tensor,
) -> None:
    """`keys`, `values`: `[prefix + tokens, kv_heads, dim]`."""
    q, k, v = (x.to(query.dtype).transpose(0, 1)[None] for x in (query, keys, values))
    mask = torch.ones(len(query), len(keys), dtype=torch.bool).tril(prefix) if prefix else None
    found = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    out.copy_(found[0].transpose(0, 1))


def _extend_in_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix: int,
    scale: float,
    out: torch.Tensor,
) -> None:
    """Scores, their softmax and the weighted sum are fp32; bf16 inputs multiply by bf16 instructions."""
    new, heads, dim = query.shape
    k, v = keys.float().permute(1, 2, 0), values.float().transpose(0, 1)
    rows = min(block_rows(heads, len(keys)), new)
    future = torch.full((rows, rows), float("-inf")).triu(1)
    # Allocated once: new memory for every block costs more than the block's arithmetic.
    scratch = torch.empty(heads * rows * len(keys))
    # Query heads of one KV head, side by side: [kv_heads, heads of it, tokens, dim].
    shared, shared_out = (x.view(new, len(k), heads // len(k), -1).permute(1, 2, 0, 3) for x in (query, out))
    for start in range(0, new, rows):
        block = shared[:, :, start : start + rows].float()
        count, seen = block.shape[2], prefix + start + block.shape[2]
        scores = scratch[: heads * count * seen].view(len(k), -1, seen)
        flat = block.reshape(len(k), -1, dim)
        with multiplied_as(query.dtype, keys.dtype):
            torch.baddbmm(scores, flat, k[:, :, :seen], beta=0, alpha=scale, out=scores)
            scores.view(len(k), -1, count, seen)[..., seen - count :] += future[:count, :count]
            weighed = torch.bmm(torch.softmax(scores, -1, out=scores), v[:, :seen])
        shared_out[:, :, start : start + rows] = weighed.view(len(k), -1, count, v.shape[-1])


@contextmanager
def multiplied_as(*dtypes: torch.dtype) -> Iterator[None]:
    """In the block, fp32 matrices may be multiplied by bf16 instructions if all of these dtypes are bf16.

    The product of two bf16 numbers is exact in fp32, in which products are summed: nothing is lost, and it is
    more than twice as fast. Softmax's weights may be rounded to bf16, as in torch's own kernel. Nothing
    changes on CPUs without these instructions.
    """
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    if set(dtypes) == {torch.bfloat16}:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def block_rows(heads: int, keys: int) -> int:
    """How many queries to take at once, so that their scores stay within SCORE_BYTES where possible."""
    fitting = SCORE_BYTES // (4 * heads * keys)
    return max(BLOCK_ROWS.start, min(fitting, BLOCK_ROWS.stop - 1))
