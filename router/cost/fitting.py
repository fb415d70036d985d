"""Least squares: the coefficients of a linear formula, from measured times."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# How much less error one more coefficient has to bring: two equal columns must not share their weight.
_MIN_GAIN = 1e-6


class FitError(ValueError):
    """The coefficients do not follow from what was measured."""


def nonnegative(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The coefficients, none below 0, with the least sum of squared relative errors.

    `features`: `[rows, coefficients]`, up to 8 columns; `seconds`: `[rows]`, above 0. The result is exact: it
    is the plain least squares of some of the columns, and all choices of columns are tried. Raises FitError
    for no rows, or a time that is not above 0.
    """
    matrix, times = np.asarray(features, float), np.asarray(seconds, float)
    if not times.size:
        raise FitError("nothing was measured: no rows to fit")
    if not (times > 0).all():
        raise FitError(f"a measured time of {times.min():g} s: times must be above 0")
    matrix = matrix / times[:, None]
    scale = np.abs(matrix).max(axis=0)
    used = [column for column in range(matrix.shape[1]) if scale[column]]
    found, min_error = np.zeros(matrix.shape[1]), float(len(times))
    for columns in _choices(used):
        part = matrix[:, columns] / scale[columns]
        weights = np.linalg.lstsq(part, np.ones(len(times)), rcond=None)[0]
        error = float(((part @ weights - 1) ** 2).sum())
        if (weights >= 0).all() and error < min_error - _MIN_GAIN * len(times):
            found, min_error = np.zeros(matrix.shape[1]), error
            found[columns] = weights / scale[columns]
    return [float(value) for value in found]


def _choices(columns: Sequence[int]) -> Iterable[list[int]]:
    """All choices of columns, the small choices first."""
    for count in range(1, len(columns) + 1):
        yield from map(list, itertools.combinations(columns, count))


def mean_error(predicted: Iterable[float], measured: Iterable[float]) -> float:
    """Mean of |predicted / measured - 1|. Raises FitError where nothing was measured."""
    errors = [abs(guess / truth - 1) for guess, truth in zip(predicted, measured, strict=True)]
    if not errors:
        raise FitError("nothing was measured: no rows to compare with")
    return sum(errors) / len(errors)
