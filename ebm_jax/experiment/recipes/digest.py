"""A digest of data, by which a run knows them again."""

from __future__ import annotations

import hashlib

import numpy as np


def digest(*arrays: np.ndarray) -> str:
    """Returns the SHA-256, in hex, of the dtypes, shapes and contents of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
