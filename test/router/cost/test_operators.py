"""Each operator has the shape that it stands for, and finds its coefficients in what it predicts."""

import numpy as np
import pytest

from router.cost.attention import AttentionRow, Heads, Kernel, PrefillAttention
from router.cost.collective import AllReduce, CollectiveRow
from router.cost.fitting import FitError
from router.cost.gemm import Gemm, GemmRow
from router.cost.streams import MemoryBound, Overhead, OverheadRow, StreamRow

GEMM = Gemm(
    tile_m=128, tile_n=64, units=10, element_bytes=2, call_s=5e-6, wave_s=1e-6, wave_k_s=2e-9, byte_s=4e-13
)
HEADS = Heads(8, 2, 64)


def test_a_gemm_takes_whole_waves_of_tiles():
    # 10 tiles side by side are one wave of 10 units; one row of tiles more is another.
    full, more = (GEMM.seconds(m, 640, 4096) for m in (128, 129))
    assert GEMM.seconds(1, 640, 4096) == pytest.approx(full, rel=0.1)
    assert more - full == pytest.approx(1e-6 + 4096 * 2e-9, rel=0.01)


def test_a_small_gemm_is_bound_by_its_weights():
    gemm = Gemm(
        tile_m=64, tile_n=64, units=1000, element_bytes=2, call_s=0, wave_s=0, wave_k_s=0, byte_s=1e-12
    )
    assert gemm.seconds(1, 4096, 4096) == pytest.approx(2 * 4096 * 4096 * 1e-12, rel=1e-3)


def test_a_gemm_is_found_from_its_times_and_so_is_its_tile():
    sizes = [
        (m, n, k) for m in (1, 64, 100, 300, 1000, 4000) for n, k in ((512, 512), (3000, 512), (512, 2048))
    ]
    rows = [GemmRow(*size, GEMM.seconds(*size)) for size in sizes]
    found = Gemm.fit(rows, units=10, element_bytes=2)
    assert (found.tile_m, found.tile_n) == (128, 64)
    assert found.error(rows) < 1e-3
    assert found.seconds(2000, 1000, 1000) == pytest.approx(GEMM.seconds(2000, 1000, 1000), rel=1e-3)


def test_many_lengths_at_once_are_the_same_lengths_one_by_one():
    lengths = np.arange(1, 400.0)
    assert GEMM.seconds(lengths, 640, 100).tolist() == [GEMM.seconds(int(m), 640, 100) for m in lengths]


def test_new_tokens_see_the_prefix_and_half_of_each_other():
    kernel = Kernel(tile=1, units=1, wave_key_s=1e-9)
    new = kernel.seconds([(0, 1000)], HEADS)
    assert kernel.seconds([(500, 1000)], HEADS) == pytest.approx(2 * new, rel=0.01)
    assert Kernel(tile=1, units=1, wave_key_s=1e-9, causal=False).seconds([(0, 1000)], HEADS) == (
        pytest.approx(2 * new, rel=0.01)
    )


def test_few_queries_leave_units_idle():
    kernel = Kernel(tile=64, units=1000, wave_key_s=1e-9)
    once, twice = kernel.seconds([(4096, 64)], HEADS), kernel.seconds([(4096, 128)], HEADS)
    assert twice == pytest.approx(once, rel=0.02)


def test_an_engine_that_pads_computes_the_prefix_again():
    kernels = (Kernel(tile=16, units=1, wave_key_s=1e-9),)
    padding = PrefillAttention(kernels=kernels, pads_query=True)
    plain = PrefillAttention(kernels=kernels)
    assert padding.seconds([(2000, 16)], HEADS) == plain.seconds([(0, 2016)], HEADS)
    assert plain.seconds([(2000, 16)], HEADS) < plain.seconds([(0, 2016)], HEADS) / 50


def test_a_request_goes_to_the_first_kernel_that_takes_it():
    attention = PrefillAttention(
        kernels=(
            Kernel(tile=1, units=1, with_prefix=False, max_scores=100, request_s=1.0),
            Kernel(tile=1, units=1, with_prefix=True, max_scores=50, request_s=2.0),
            Kernel(tile=1, units=1, request_s=3.0),
        )
    )
    assert attention.seconds([(0, 10)], HEADS) == 1.0
    assert attention.seconds([(0, 11)], HEADS) == 3.0
    assert attention.seconds([(4, 5)], HEADS) == 2.0
    assert attention.seconds([(0, 10), (0, 10), (46, 2)], HEADS) == 5.0


def test_a_request_without_a_kernel_is_named():
    attention = PrefillAttention(kernels=(Kernel(tile=1, units=1, with_prefix=False),))
    with pytest.raises(FitError, match="7 new tokens on 5 cached"):
        attention.seconds([(5, 7)], HEADS)


def test_attention_is_found_from_its_times():
    truth = Kernel(tile=32, units=2, request_s=1e-4, key_s=1e-10, wave_s=1e-6, wave_key_s=1e-10)
    sizes = [(x, y) for x in (0, 100, 1000, 5000) for y in (1, 40, 100, 300, 2000)]
    rows = [AttentionRow(((x, y),), HEADS, truth.seconds([(x, y)], HEADS)) for x, y in sizes]
    found = PrefillAttention(kernels=(Kernel(tile=16, units=2),)).fit(rows)
    assert found.kernels[0].tile == 32
    batch = [(700, 333), (0, 50)]
    assert found.seconds(batch, HEADS) == pytest.approx(truth.seconds(batch, HEADS), rel=0.01)


def test_a_stream_is_found_from_its_times():
    truth = MemoryBound(call_s=1e-5, item_s=1e-6, byte_s=1e-10)
    rows = [
        StreamRow(size, truth.seconds(size, items), items)
        for size in (10, 10**5, 10**7)
        for items in (1, 5, 9)
    ]
    assert MemoryBound.fit(rows).seconds(12345, 3) == pytest.approx(truth.seconds(12345, 3), rel=1e-3)


def test_overheads_are_what_the_operators_do_not_explain():
    truth = Overhead(forward_s=0.01, request_s=2e-3, token_s=1e-5, scale=1.2)
    rows = [
        OverheadRow(requests, tokens, operators, truth.seconds(requests, tokens, operators))
        for requests, tokens, operators in (
            (1, 64, 0.1),
            (1, 2048, 2.0),
            (4, 2048, 1.0),
            (2, 4000, 5.0),
            (4, 64, 0.2),
        )
    ]
    found = Overhead.fit(rows)
    assert found.error(rows) < 1e-3
    assert found.scale == pytest.approx(1.2, rel=0.01)


def test_all_reduce_grows_with_ranks_and_is_nothing_for_one():
    rows = [CollectiveRow(size, 2, 1e-5 + size * 1e-11) for size in (1024, 10**6, 10**7)]
    reduce = AllReduce.fit(rows)
    assert reduce.seconds(10**7, 1) == 0
    assert reduce.seconds(10**7, 2) == pytest.approx(1e-5 + 1e-4, rel=1e-3)
    # Ranks that were not measured: the same bandwidth, 2(r - 1)/r of the bytes, three times the steps.
    assert reduce.seconds(10**7, 4) == pytest.approx(3e-5 + 1.5e-4, rel=1e-3)


def test_an_all_reduce_of_one_is_not_a_measurement():
    with pytest.raises(FitError, match="2 ranks"):
        AllReduce.fit([CollectiveRow(1024, 1, 1e-5)])
