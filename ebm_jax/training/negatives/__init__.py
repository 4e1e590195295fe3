"""Where the model's side of the gradient comes from: configurations that stand for p(x) ∝ exp(−E(x; θ)).

A `Source` of negatives is a frozen dataclass registered as a pytree: kernels and arrays are leaves, counts are
structure. Chains run at β = 1, and chain i has the key `fold_in(key, i)`. `starts` has the distributions from which
`short_run` and `replay` draw new chains.
"""

from ebm_jax.training.negatives import starts
from ebm_jax.training.negatives.divergence import cd
from ebm_jax.training.negatives.enumerated import MAX_STATES, exact
from ebm_jax.training.negatives.persistent import pcd
from ebm_jax.training.negatives.replay import BufferState, replay
from ebm_jax.training.negatives.short_run import short_run

__all__ = ["MAX_STATES", "BufferState", "cd", "exact", "pcd", "replay", "short_run", "starts"]
