"""BlackJAX's algorithms as kernels of this package (https://github.com/blackjax-devs/blackjax).

    kernel = from_blackjax(blackjax.nuts, energy, step_size=0.1, inverse_mass_matrix=jnp.ones(3))
    sample(key, kernel, params, init, schedule, beta=0.5)

BlackJAX builds an algorithm from a log density and keeps it. A kernel here gets parameters and β at every step, so a
step builds the algorithm for

    log p(x) = −β E(x; params)

and starts it from the position alone, with a log density and a gradient of that target. Nothing in a state can then
belong to other parameters, another β or another position. This costs one evaluation a step more than BlackJAX's own
loop: MALA takes two instead of one, NUTS one more than its integration steps. Whatever else an algorithm keeps (the
momentum of `mclmc` and `ghmc`) stays in the state from step to step.

The random key of a step is a function of (chain key, step), so a run in pieces is the whole run bit for bit.
"""

try:
    import blackjax as _blackjax  # noqa: F401
except ImportError as error:
    raise ImportError(
        "ebm_jax.interop.blackjax needs BlackJAX, which cannot be imported here: pip install 'ebm-jax[blackjax]'"
    ) from error

from ebm_jax.interop.blackjax.building import from_blackjax
from ebm_jax.interop.blackjax.kernel import BlackJAX, BlackJAXState

__all__ = ["BlackJAX", "BlackJAXState", "from_blackjax"]
