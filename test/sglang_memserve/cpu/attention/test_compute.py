"""The CPU attention over paged KV against the textbook's formula in double precision."""

import random

import pytest
import torch

from sglang_memserve.cpu.attention import compute
from sglang_memserve.cpu.attention.plan import plan_decode, plan_extend

# The width of the query's dtype decides what rounding is left in a weighted mean of numbers around 1.
CLOSE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HEADS = ((9, 3), (4, 4), (8, 1))


class Pool:
    """K and V of requests whose pages are scattered over a pool, and what they should attend to."""

    def __init__(self, lengths, page_size, kv_heads, dtype, dim=16):
        rows = sum(-(-n // page_size) for n in lengths) + 3
        self.page_size, self.lengths, self.dim = page_size, lengths, dim
        torch.manual_seed(rows)
        self.keys = torch.randn(rows * page_size, kv_heads, dim).to(dtype)
        self.values = torch.randn(rows * page_size, kv_heads, dim).to(dtype)
        free = random.Random(rows).sample(range(1, rows), rows - 1)
        self.slots = torch.zeros(len(lengths) + 2, max(lengths) + page_size, dtype=torch.int32)
        self.requests = torch.arange(len(lengths)).flip(0) + 1
        for row, length in zip(self.requests, lengths, strict=True):
            pages = torch.tensor([free.pop() for _ in range(-(-length // page_size))])
            slots = (pages[:, None] * page_size + torch.arange(page_size)).flatten()
            self.slots[row, :length] = slots[:length]

    def attended(self, request, query, start):
        """What a request's `query` `[tokens, heads, dim]`, at positions from `start` on, should see, fp64."""
        end = start + len(query)
        slots = self.slots[self.requests[request], :end].long()
        shared = query.shape[1] // self.keys.shape[1]
        keys = self.keys[slots].double().repeat_interleave(shared, 1)
        values = self.values[slots].double().repeat_interleave(shared, 1)
        scores = torch.einsum("qhd,nhd->hqn", query.double(), keys) * SCALE
        future = torch.arange(end) > torch.arange(start, end)[:, None]
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return torch.einsum("hqn,nhd->qhd", weights, values)

    def decoded(self, query):
        """What each request's one `query` `[requests, heads, dim]`, its last token, should see."""
        return torch.cat([self.attended(i, query[i : i + 1], n - 1) for i, n in enumerate(self.lengths)])


SCALE = 0.3


def assert_close(got, expected, dtype):
    torch.testing.assert_close(got.double(), expected, atol=CLOSE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", [[1], [33], [16, 16], [40, 41, 300, 1, 45, 17]])
def test_decode(lengths, heads, page_size, dtype):
    pool = Pool(lengths, page_size, heads[1], dtype)
    query = torch.randn(len(lengths), heads[0], pool.dim).to(dtype)
    out = torch.full_like(query, float("nan"))
    for group in plan_decode(pool.slots, pool.requests, lengths, page_size, dtype):
        out[group.rows] = compute.decode(query[group.rows], pool.keys, pool.values, group, page_size, SCALE)
    assert_close(out, pool.decoded(query), dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    ("prefixes", "new"),
    [
        ([0], [1]),
        ([0], [70]),
        ([48], [5]),
        ([37], [66]),
        ([0, 32, 0, 100], [3, 17, 40, 1]),
        ([16, 0], [0, 5]),
    ],
)
@pytest.mark.parametrize("in_blocks", [False, True])
def test_extend(monkeypatch, in_blocks, prefixes, new, heads, page_size, dtype):
    if in_blocks:
        monkeypatch.setattr(compute, "FUSED_SCORES", 0)
        monkeypatch.setattr(compute, "FUSED_CAUSAL", 0)
        monkeypatch.setattr(compute, "BLOCK_ROWS", range(32, 33))
    lengths = [prefix + count for prefix, count in zip(prefixes, new, strict=True)]
    pool = Pool(lengths, page_size, heads[1], dtype)
    query = torch.randn(sum(new), heads[0], pool.dim).to(dtype)
    out = torch.full_like(query, float("nan"))
    for part in plan_extend(pool.slots, pool.requests, prefixes, new, page_size):
        compute.extend(query[part.rows], pool.keys, pool.values, part, page_size, SCALE, out[part.rows])
    parts = enumerate(query.split(new))
    assert_close(out, torch.cat([pool.attended(i, rows, prefixes[i]) for i, rows in parts]), dtype)


def test_a_pool_of_another_dtype_than_the_query():
    pool = Pool([30, 20], 16, 1, torch.bfloat16)
    query = torch.randn(2, 4, pool.dim)
    (group,) = plan_decode(pool.slots, pool.requests, [30, 20], 16, query.dtype)
    out = compute.decode(query, pool.keys, pool.values, group, 16, SCALE)
    assert_close(out, pool.decoded(query), torch.float32)
    (part,) = plan_extend(pool.slots, pool.requests[:1], [28], [2], 16)
    out = torch.empty(2, 4, pool.dim)
    compute.extend(query, pool.keys, pool.values, part, 16, SCALE, out)
    assert_close(out, pool.attended(0, query, 28), torch.float32)


def test_values_wider_than_keys():
    pool = Pool([20], 16, 2, torch.float32)
    values = torch.cat([pool.values, 2 * pool.values], -1)
    query = torch.randn(1, 4, pool.dim)
    (group,) = plan_decode(pool.slots, pool.requests, [20], 16, query.dtype)
    decoded = compute.decode(query, pool.keys, values, group, 16, SCALE)
    (part,) = plan_extend(pool.slots, pool.requests, [19], [1], 16)
    extended = torch.empty(1, 4, 2 * pool.dim)
    compute.extend(query, pool.keys, values, part, 16, SCALE, extended)
    expected = pool.decoded(query)
    for out in (decoded, extended):
        assert_close(out, torch.cat([expected, 2 * expected], -1), torch.float32)


def test_decode_pads_little_and_calls_little():
    lengths = [512, 100, 490, 130, 700, 8, 9]
    slots = torch.zeros(7, 1024, dtype=torch.int32)
    groups = plan_decode(slots, torch.arange(7), lengths, 16, torch.float32)
    assert [sorted(lengths[i] for i in group.rows) for group in groups] == [
        [8, 9],
        [100, 130],
        [490, 512, 700],
    ]
    (alone,) = plan_decode(slots, torch.arange(3), [40, 44, 48], 16, torch.float32)
    assert alone.rows == slice(None)
    assert alone.pages.shape == (3, 3)


@pytest.fixture
def scores_of(monkeypatch):
    """How many scores an extend computes, by the shapes of what it hands to torch."""
    counted = []

    def count(module, name, queries, keys):
        original = getattr(module, name)

        def call(*args, **kwargs):
            counted.append(queries(args).shape[:-1].numel() * keys(args))
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    count(torch, "baddbmm", lambda args: args[1], lambda args: args[2].shape[-1])
    count(compute, "scaled_dot_product_attention", lambda args: args[0], lambda args: args[1].shape[-2])

    def extend(prefix, new, heads=9, kv_heads=3, dim=16):
        counted.clear()
        pool = Pool([prefix + new], 16, kv_heads, torch.bfloat16)
        (part,) = plan_extend(pool.slots, pool.requests, [prefix], [new], 16)
        query = torch.randn(new, heads, dim).bfloat16()
        compute.extend(query, pool.keys, pool.values, part, 16, SCALE, torch.empty_like(query))
        return sum(counted) // heads

    return extend


def test_a_cached_prefix_costs_the_new_tokens_work_only(scores_of):
    assert scores_of(2000, 16) == 16 * 2016
    assert scores_of(1500, 500) < 0.95 * 500 * 2000  # in blocks, which leave out most of what is to come
    assert scores_of(0, 2016) < 0.6 * 2016**2


@pytest.mark.parametrize(("heads", "keys"), [(9, 16), (9, 2048), (32, 8192), (128, 131072)])
def test_scores_stay_small_until_blocks_would_be_too_thin(heads, keys):
    rows = compute.block_rows(heads, keys)
    assert rows in compute.BLOCK_ROWS
    assert rows == 32 or rows * heads * keys * 4 <= compute.SCORE_BYTES
