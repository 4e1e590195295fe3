"""What the figure scripts share: the folder of pictures, and the training of an RBM on bits."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ebm_jax as ej

IMAGES = Path(__file__).parents[1] / "images"


def train_rbm(
    key: jax.Array, bits: np.ndarray, n_hidden: int, n_epochs: int, rate: float, batch_size: int = 100
) -> tuple[ej.RBM, ej.RBMParams]:
    """Trains an RBM on `(n, n_visible)` bits by persistent contrastive divergence; the rate falls linearly to zero.

    Visible biases start at the log-odds of each bit (Hinton 2012, "A practical guide to training RBMs", §8).
    """
    model = ej.RBM(bits.shape[1], n_hidden)
    mean = (bits.sum(axis=0) + 1) / (len(bits) + 2)
    params = model.init(key)._replace(visible_bias=jnp.asarray(np.log(mean / (1 - mean)), jnp.float32))
    rates = optax.linear_schedule(rate, 0.0, n_epochs * (len(bits) // batch_size))
    fitted = ej.fit(
        jax.random.fold_in(key, 1),
        model,
        bits.astype(np.uint8),
        tx=optax.chain(
            optax.add_decayed_weights(1e-4, mask=ej.RBMParams(True, False, False)), optax.sgd(rates)
        ),
        negatives=ej.negatives.pcd(ej.gibbs(model), 1, batch_size),
        n_epochs=n_epochs,
        batch_size=batch_size,
        params=params,
        progress=sys.stderr.isatty(),
    )
    return model, fitted.state.params
