"""Attention over paged K and V `[slots, kv_heads, dim]`, for queries `[tokens, heads, dim]`, in plain torch.

Query heads that share a KV head are laid out as more queries of that head: K and V are never repeated.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from sglang_memserve.cpu_attention.plan import DecodeGroup, ExtendPart

# Bytes of scores that a block of queries may have: about what stays in a core's share of the caches.
SCORE_BYTES = 4 << 20
BLOCK_ROWS = range(32, 257)


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
    """One token of each of the group's requests against all it has in the pool. `query`: the group's rows."""
    requests, heads, dim = query.shape
    keys = gather(k_cache, group.pages, page_size).to(query.dtype).transpose(1, 2)
    values = gather(v_cache, group.pages, page_size).to(query.dtype).transpose(1, 2)
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
    """A request's new tokens against its prefix and, causally, themselves. `query` and `out`: its rows.

    Scores and their softmax are fp32. They weigh V in the query's dtype where that is bf16, as fused
    kernels do, and in fp32 where the CPU has no fast product of it.
    """
    new, heads, dim = query.shape
    total = part.prefix + new
    weigh_in = torch.bfloat16 if query.dtype == torch.bfloat16 else torch.float32
    keys = gather(k_cache, part.pages, page_size)[:total].float().permute(1, 2, 0)
    values = gather(v_cache, part.pages, page_size)[:total].to(weigh_in).transpose(0, 1)
    kv_heads = keys.shape[0]
    rows = block_rows(heads, total)
    future = torch.full((min(rows, new),) * 2, float("-inf")).triu(1)
    scratch = torch.empty(heads * future.shape[0] * total)
    shared = query.view(new, kv_heads, -1, dim).permute(1, 2, 0, 3)
    shared_out = out.view(new, kv_heads, heads // kv_heads, -1).permute(1, 2, 0, 3)
    for start in range(0, new, rows):
        block = shared[:, :, start : start + rows].float()
        count, seen = block.shape[2], part.prefix + start + block.shape[2]
        scores = scratch[: heads * count * seen].view(kv_heads, -1, seen)
        torch.baddbmm(
            scores, block.reshape(kv_heads, -1, dim), keys[:, :, :seen], beta=0, alpha=scale, out=scores
        )
        scores.view(kv_heads, -1, count, seen)[..., seen - count :] += future[:count, :count]
        weights = torch.softmax(scores, -1, out=scores).to(weigh_in)
        weighed = torch.bmm(weights, values[:, :seen])
        shared_out[:, :, start : start + rows] = weighed.view(kv_heads, -1, count, weighed.shape[-1])


def block_rows(heads: int, keys: int) -> int:
    """How many queries to take at once, so that their scores stay within SCORE_BYTES where possible."""
    fitting = SCORE_BYTES // (4 * heads * keys)
    return max(BLOCK_ROWS.start, min(fitting, BLOCK_ROWS.stop - 1))
