"""Models, blocks and states to and from THRML (Jelinčič et al. 2025, https://github.com/extropic-ai/thrml).

In both libraries a configuration of low energy is likely, and spin +1 is stored as True. THRML keeps β inside its
energy and samples p ∝ exp(−E_thrml). Here β belongs to the sampler and p ∝ exp(−β E). In both directions, and with the
β that the caller passes,

    E_thrml(x) = β · E(params, x).

With the default β = 1 the two energies are the same number, whatever β a THRML model was built with, and sampling here
at the default `beta=1.0` draws THRML's law. `from_thrml(ebm, beta=ebm.beta)` gives the `biases` and `weights` of an
`IsingEBM` themselves; sample them with `sample(..., beta=ebm.beta)`.

THRML has nodes, a model here has numbered sites. `site_nodes` gives the node of every site, and by name where the model
is a `FactorGraph`. The order is the caller's and never that of a hash.
"""

try:
    import thrml as _thrml  # noqa: F401
except ImportError as error:
    raise ImportError(
        "ebm_jax.interop.thrml needs THRML, which cannot be imported here: pip install ebm_jax[thrml]"
    ) from error

from ebm_jax.interop.thrml.models import ThrmlModel, from_thrml, to_thrml
from ebm_jax.interop.thrml.sites import from_thrml_state, site_nodes, to_thrml_state

__all__ = ["ThrmlModel", "from_thrml", "from_thrml_state", "site_nodes", "to_thrml", "to_thrml_state"]
