from collections import Counter

from benchmark.cost.grid import BATCHES, SHARES, grid


def test_the_grid_is_what_was_promised():
    cells = grid()
    assert len(set(cells)) == 40
    assert (min(cell.prompt for cell in cells), max(cell.prompt for cell in cells)) == (64, 6000)
    assert all(cell.prompt * cell.batch <= 8192 for cell in cells)
    assert all(cell.cached % 16 == 0 and cell.cached < cell.prompt for cell in cells)
    assert max(cell.cached / cell.prompt for cell in cells) > 0.9
    assert set(Counter(cell.batch for cell in cells).values()) == {40 // len(BATCHES)}
    assert sum(cell.cached == 0 for cell in cells) >= 40 // len(SHARES)


def test_it_is_the_same_every_time():
    assert grid() == grid()


def test_a_cell_is_a_batch_of_the_same_requests():
    cell = next(cell for cell in grid() if cell.batch == 3 and cell.cached)
    assert cell.requests == ((cell.cached, cell.prompt - cell.cached),) * 3
