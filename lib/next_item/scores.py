"""Scores of a few items a row, as sparse matrices: the most of each row, and rows that sum to one.

What happens to a row depends on that row alone, to the last digit, so that many rows at once give what each gives by itself.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lib.next_item.visits import NOTHING, Ints

Floats = NDArray[np.float64]


def of_entries(row: Ints, column: Ints, value: Floats, shape: tuple[int, int]) -> sparse.csr_array:
    """A matrix from entries, of which those at one place are added in their order; columns in order."""
    matrix = sparse.csr_array(sparse.coo_array((value, (row, column)), shape=shape))
    matrix.sum_duplicates()
    return matrix


def top_of_rows(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """The k largest entries of each row; of equal ones those of the first columns."""
    matrix.sort_indices()
    lengths = np.diff(matrix.indptr)
    if not (lengths > k).any():
        return matrix
    keep = np.ones(matrix.nnz, dtype=bool)
    for row in np.flatnonzero(lengths > k):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[entries]
        least = np.partition(values, len(values) - k)[len(values) - k]
        chosen = values > least
        equal = np.flatnonzero(values == least)
        chosen[equal[: k - chosen.sum()]] = True
        keep[entries] = chosen
    ends = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return sparse.csr_array((matrix.data[keep], matrix.indices[keep], ends), shape=matrix.shape)


def shares(matrix: sparse.csr_array, num_columns: int | None = None) -> sparse.csr_array:
    """The matrix with rows that sum to one, and further, empty columns up to `num_columns`; an empty row stays empty."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    data = matrix.data / np.repeat(np.where(sums > 0, sums, 1.0), np.diff(matrix.indptr))
    shape = (matrix.shape[0], num_columns or matrix.shape[1])
    return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=shape)


def rows_of(matrix: sparse.csr_array, row: Ints) -> sparse.csr_array:
    """Some rows of a matrix, each named by its number; one that the matrix lacks, or NOTHING, is empty."""
    is_there = (row != NOTHING) & (row < matrix.shape[0])
    if not is_there.any():
        return sparse.csr_array((len(row), matrix.shape[1]))
    chosen = sparse.csr_array(matrix[np.where(is_there, row, 0)])
    lengths = np.where(is_there, np.diff(chosen.indptr), 0)
    keep = np.repeat(is_there, np.diff(chosen.indptr))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((chosen.data[keep], chosen.indices[keep], ends), shape=chosen.shape)
