"""The handwritten digits that come with scikit-learn: 1,797 real images of 8×8 pixels, no download."""

from __future__ import annotations

import numpy as np

from ebm_jax.data.sources import SHUFFLE_SEED, Arrays


def read_digits() -> Arrays:
    """Returns all 1,797 digits as uint8 in 0 to 255, shuffled by `np.random.RandomState(0).permutation(1797)`.

    The published intensities v = 0…16 are stored as u = ⌈255·v / 16⌉, from which ⌊16·u / 255⌋ gives v back exactly.
    Rounding up keeps every quarter of the range where it was, so `discretize(u)` has the levels of v / 16. The file is
    ordered by writer, so it is shuffled before it is split.
    """
    from sklearn.datasets import load_digits

    raw, labels = map(np.asarray, load_digits(return_X_y=True))
    images = ((raw.astype(np.int32) * 255 + 15) // 16).astype(np.uint8).reshape(-1, 8, 8)
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(images))
    return Arrays(images[order], labels[order].astype(np.int32))
