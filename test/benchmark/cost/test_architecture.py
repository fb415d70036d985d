import pytest

from benchmark.cost.architecture import ArchitectureFit

BATCHES = [[(x, y)] for x in (0, 500, 2000) for y in (16, 200, 1000, 4000)]


def seconds(batch):
    return 0.01 + sum(1e-5 * y + 1e-8 * x * y + 4e-9 * y * y for x, y in batch)


def test_a_polynomial_is_found_and_adds_up_over_a_batch():
    fit = ArchitectureFit.fit(BATCHES, [seconds(batch) for batch in BATCHES])
    batch = [(100, 300), (3000, 50)]
    assert fit.prefill_seconds(batch) == pytest.approx(seconds(batch), rel=0.01)
    assert fit.error([batch], [2 * seconds(batch)]) == pytest.approx(0.5, rel=0.02)


def test_all_it_knows_of_ranks_is_to_divide():
    fit = ArchitectureFit.fit(BATCHES, [seconds(batch) for batch in BATCHES])
    assert fit.prefill_seconds([(0, 500)], 4) == fit.prefill_seconds([(0, 500)]) / 4
