"""From matrices of couplings to graphs: dense or SciPy-sparse, with checks that name the entry that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_jax.graphs import Graph


def matrix_entries(name: str, matrix: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the nonzero entries of a square matrix.

    Args:
      name: What an error message calls the matrix.
      matrix: A dense array, or a SciPy sparse one, whose repeated entries add up.

    Returns:
      The number of rows, and the rows, columns and float64 values of the nonzero entries, row by row.

    Raises:
      ValueError: If it is not a square matrix of finite real numbers.
    """
    shape = np.shape(matrix)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"{name} has shape {shape}; give a square matrix (n_sites, n_sites)")
    if hasattr(matrix, "tocsr"):
        entries = matrix.tocsr(copy=True)
        entries.sum_duplicates()
        entries = entries.tocoo()
        rows, columns, values = entries.row, entries.col, entries.data
        kept = values != 0
        rows, columns, values = rows[kept], columns[kept], values[kept]
    else:
        dense = np.asarray(matrix)
        rows, columns = np.nonzero(dense)
        values = dense[rows, columns]
    if not (np.isrealobj(values) and (np.issubdtype(values.dtype, np.number) or values.dtype == bool)):
        raise ValueError(f"{name} has dtype {values.dtype}; give real numbers")
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        where = int(rows[bad[0]]), int(columns[bad[0]])
        raise ValueError(f"{name} holds {values[bad[0]]} at {where}; give finite numbers")
    return shape[0], rows.astype(np.int64), columns.astype(np.int64), values


def graph_of_couplings(couplings: Any) -> tuple[Graph, np.ndarray]:
    """Returns the graph of a symmetric matrix of couplings, and the coupling of each edge.

    Args:
      couplings: J, `(n_sites, n_sites)`, dense or SciPy-sparse, symmetric with zeros on its diagonal.

    Returns:
      A graph with an edge (i, j), i < j, wherever J_ij is not zero, row by row; and float64 couplings `(n_edges,)`.

    Raises:
      ValueError: If J is not square, finite, symmetric and zero on its diagonal.
    """
    n, rows, columns, values = matrix_entries("J", couplings)
    on_diagonal = np.flatnonzero(rows == columns)
    if on_diagonal.size:
        k = on_diagonal[0]
        raise ValueError(
            f"J[{rows[k]}, {rows[k]}] is {values[k]}, and s² = 1 makes it a constant of the energy; "
            "set the diagonal to zero (fields go into h)"
        )
    above, below = rows < columns, rows > columns
    if above.any() != below.any():
        raise ValueError("J has entries on one side of its diagonal only; give the symmetric matrix J + J.T")
    # Entries come row by row, so those above the diagonal are in the order of this code already.
    upper_codes, lower_codes = rows[above] * n + columns[above], columns[below] * n + rows[below]
    by_code = np.argsort(lower_codes)
    lower_codes, lower_values = lower_codes[by_code], values[below][by_code]
    if not (np.array_equal(upper_codes, lower_codes) and np.array_equal(values[above], lower_values)):
        upper = dict(zip(upper_codes.tolist(), values[above].tolist()))
        lower = dict(zip(lower_codes.tolist(), lower_values.tolist()))
        code = min(c for c in upper.keys() | lower.keys() if upper.get(c) != lower.get(c))
        (i, j), one, other = divmod(code, n), upper.get(code, 0.0), lower.get(code, 0.0)
        raise ValueError(
            f"J[{i}, {j}] is {one} and J[{j}, {i}] is {other}; give a symmetric matrix, e.g. (J + J.T) / 2"
        )
    return Graph(n, np.stack([rows[above], columns[above]], axis=1)), values[above]
