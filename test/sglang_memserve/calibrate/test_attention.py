"""What is timed computes what the engine computes."""

import math

import pytest
import torch

from router.cost import ModelShape
from sglang_memserve.calibrate.attention import Attention, plain_extend
from sglang_memserve.calibrate.timing import CallTimer

SHAPE = ModelShape(
    layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, intermediate=48, vocab=100, dtype="float32"
)
HASTY = CallTimer(torch.device("cpu"), budget_s=0.0, min_calls=1)


def attention(backend):
    return Attention(SHAPE, HASTY, backend, page_size=16, units=1)


@pytest.mark.parametrize("cached", [0, 37])
@pytest.mark.parametrize("padded", [True, False])
def test_new_tokens_attend_to_the_prefix_and_to_what_is_before_them(cached, padded):
    torch.manual_seed(1)
    new, k_cache, v_cache = 9, torch.randn(64, 2, 8), torch.randn(64, 2, 8)
    query, slots = torch.randn(new, 4, 8), torch.randperm(64)[: cached + 9]
    found = plain_extend(query, k_cache, v_cache, slots, padded)
    for row in range(new):
        seen = slots[: cached + row + 1]
        for head in range(4):
            scores = k_cache[seen, head // 2] @ query[row, head] / 8**0.5
            expected = torch.softmax(scores, 0) @ v_cache[seen, head // 2]
            assert torch.allclose(found[row, head], expected, atol=1e-5)


def test_only_an_engine_that_pads_is_fitted_as_one():
    assert attention("torch_native").kernels().pads_query
    assert not attention("memserve_cpu").kernels().pads_query


def test_each_kernel_of_memserve_cpu_can_be_fitted(monkeypatch):
    monkeypatch.setattr("sglang_memserve.calibrate.attention.LONG_ENOUGH_S", math.inf)
    sizes = [(0, 16), (0, 1440), (0, 2048), (256, 64), (1024, 16), (256, 1440), (1440, 400)]
    rows = attention("memserve_cpu").prefills(sizes)
    assert [row.batch for row in rows] == [(size,) for size in sizes]
    fitted = attention("memserve_cpu").kernels().fit(rows)
    assert len(fitted.kernels) == 3
    assert all(kernel.seconds([(0, 100)], SHAPE.heads_of(1)) > 0 for kernel in fitted.kernels)


def test_the_query_is_padded_so_prefixes_tell_nothing_new():
    rows = attention("torch_native").prefills([(0, 16), (256, 16), (0, 400)])
    assert [row.batch for row in rows] == [((0, 16),), ((0, 400),)]


def test_what_takes_longer_than_long_enough_is_left_out(monkeypatch):
    monkeypatch.setattr(CallTimer, "seconds", lambda *_: 5.0)
    rows = attention("memserve_cpu").prefills([(0, 64), (0, 400), (256, 16), (256, 64)])
    assert [row.batch for row in rows] == [((0, 64),), ((256, 16),)]


@pytest.mark.parametrize("backend", ["memserve_cpu", "torch_native"])
def test_decode_rows_have_bytes_and_requests(backend):
    rows = attention(backend).decodes([(100,), (30, 300)])
    assert [(row.bytes, row.items) for row in rows] == [(100 * 2 * 2 * 8 * 4, 1), (330 * 2 * 2 * 8 * 4, 2)]
    assert all(row.seconds > 0 for row in rows)
