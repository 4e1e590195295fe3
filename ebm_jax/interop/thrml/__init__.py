"""Models, blocks and states to and from THRML (Jelinčič et al. 2025, https://github.com/extropic-ai/thrml).

Both sides call a low energy likely and store spin +1 as True. THRML keeps β inside its energy and samples
p ∝ exp(−E_thrml); here β belongs to the sampler and p ∝ exp(−β E). One rule joins them, in both directions and with
the β that the caller passes:

    E_thrml(x) = β · E(params, x).

With the default β = 1 the two energies are the same number, whatever β a THRML model was built with, and sampling
here at the default `beta=1.0` draws THRML's law. `from_thrml(ebm, beta=ebm.beta)` gives the `biases` and `weights` of
an `IsingEBM` themselves, to be sampled with `sample(..., beta=ebm.beta)`.

Where THRML has nodes, a model here has numbered sites. `site_nodes` says which node is which site; the order is the
caller's and never that of a hash.
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
