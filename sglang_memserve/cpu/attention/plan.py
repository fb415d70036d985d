"""The pages that a batch reads from the KV pool: planned once a forward, and used by all of its layers."""

from typing import NamedTuple

import torch

# A group's requests are padded to its longest: beyond this, the padding costs more than another call.
MAX_PADDING = 1.5


class DecodeGroup(NamedTuple):
    """Requests of similar length. `rows`: their rows in the batch. `pages`: `[requests, pages]`, int64.

    `tokens`: those of the longest request. `mask`: `[requests, 1, 1, tokens]`, 0 or -inf, to be added to the
    scores; None where no token is padding.
    """

    rows: torch.Tensor | slice
    pages: torch.Tensor
    tokens: int
    mask: torch.Tensor | None


class ExtendPart(NamedTuple):
    """One request's `rows` of new tokens, after `prefix` tokens that are in the pool. `pages`: `[pages]`."""

    rows: slice
    prefix: int
    pages: torch.Tensor


def plan_decode(
    req_to_token: torch.Tensor,
    request_rows: torch.Tensor,
    lengths: list[int],
    page_size: int,
    dtype: torch.dtype,
) -> list[DecodeGroup]:
    """`req_to_token`: SGLang's `[requests, tokens]` slots; `lengths` count the token that is decoded."""
    groups = []
    for members in _similar(lengths):
        whole = len(members) == len(lengths)
        rows = slice(None) if whole else torch.tensor(members)
        sizes = torch.tensor(lengths if whole else [lengths[i] for i in members])
        tokens = int(sizes.max())
        last = (sizes - 1) // page_size
        columns = torch.arange((tokens - 1) // page_size + 1).minimum(last[:, None]) * page_size
        pages = req_to_token[request_rows[rows][:, None], columns].long() // page_size
        groups.append(DecodeGroup(rows, pages, tokens, _padding_mask(sizes, tokens, dtype)))
    return groups


def _similar(lengths: list[int]) -> list[list[int]]:
    """The requests, shortest first, in groups whose longest is at most MAX_PADDING times their shortest."""
    groups: list[list[int]] = []
    for request in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[request] <= MAX_PADDING * lengths[groups[-1][0]]:
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups


def _padding_mask(sizes: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor | None:
    padding = torch.arange(tokens) >= sizes[:, None]
    if not padding.any():
        return None
    mask = torch.zeros(padding.shape, dtype=dtype).masked_fill_(padding, float("-inf"))
    return mask[:, None, None, :]


def plan_extend(
    req_to_token: torch.Tensor,
    request_rows: torch.Tensor,
    prefixes: list[int],
    new: list[int],
    page_size: int,
) -> list[ExtendPart]:
    """One part for each request with new tokens, in the batch's order."""
    parts, start = [], 0
    for row, prefix, count in zip(request_rows.tolist(), prefixes, new, strict=True):
        if count:
            pages = req_to_token[row, : prefix + count : page_size].long() // page_size
            parts.append(ExtendPart(slice(start, start + count), prefix, pages))
        start += count
    return parts
