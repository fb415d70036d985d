"""Coefficients of a formula that is linear in them, from measured times."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# One more coefficient has to earn its place: two columns that say the same must not share their weight.
_WORTH = 1e-6


class FitError(ValueError):
    """What was measured does not tell the coefficients."""


def nonnegative(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The coefficients, none below 0, that make the squares of the relative errors least.

    `features`: `[rows, coefficients]`, up to 8 columns; `seconds`: `[rows]`, above 0. Exact: the least under
    the bound is the plain least squares of some of the columns, and all choices of them are tried.
    Raises FitError for no rows or a time that is not above 0.
    """
    matrix, times = np.asarray(features, float), np.asarray(seconds, float)
    if not times.size:
        raise FitError("nothing was measured: no rows to fit")
    if not (times > 0).all():
        raise FitError(f"a measured time of {times.min():g} s: times must be above 0")
    matrix = matrix / times[:, None]
    scale = np.abs(matrix).max(axis=0)
    used = [column for column in range(matrix.shape[1]) if scale[column]]
    found, least = np.zeros(matrix.shape[1]), float(len(times))
    for columns in _choices(used):
        part = matrix[:, columns] / scale[columns]
        weights = np.linalg.lstsq(part, np.ones(len(times)), rcond=None)[0]
        error = float(((part @ weights - 1) ** 2).sum())
        if (weights >= 0).all() and error < least - _WORTH * len(times):
            found, least = np.zeros(matrix.shape[1]), error
            found[columns] = weights / scale[columns]
    return [float(value) for value in found]


def _choices(columns: Sequence[int]) -> Iterable[list[int]]:
    """All choices of columns, the small ones first."""
    for count in range(1, len(columns) + 1):
        yield from map(list, itertools.combinations(columns, count))


def mean_error(predicted: Iterable[float], measured: Iterable[float]) -> float:
    """Mean of |predicted / measured - 1|. FitError where nothing was measured."""
    errors = [abs(one / other - 1) for one, other in zip(predicted, measured, strict=True)]
    if not errors:
        raise FitError("nothing was measured: no rows to compare with")
    return sum(errors) / len(errors)
