"""Where the model's side of the gradient comes from: configurations that stand for p(x) ∝ exp(−E(x; θ)).

A source of negatives is a frozen dataclass registered as a pytree: kernels and arrays are leaves, counts are structure.
It has two methods:

- `init(key, model, params) -> state`, the arrays that it carries from one step to the next, kept in the train state;
- `draw(key, model, params, state, batch) -> (Negatives, state)`, pure and traced within the train step. `key` may be
  the same at every step: whatever has to change from step to step is counted in `state`.

Chains run at β = 1. A chain has the key `fold_in(key, chain_index)`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax import exact as enumeration
from ebm_jax.chains import chain_keys
from ebm_jax.run import init_chains
from ebm_jax.samplers.base import Kernel
from ebm_jax.training.losses import Negatives, energy_of_data, has_contrast, visible_part, whole
from ebm_jax.types import Info, Key, PyTree

MAX_STATES = 2**20


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernel",), meta_fields=("k",))
@dataclass(frozen=True, eq=False)
class ContrastiveDivergence:
    """What `cd` builds. Its state counts the steps taken, uint32."""

    kernel: Any
    k: int

    def init(self, key: Key, model: Any, params: PyTree) -> jax.Array:
        """Returns the counter, 0."""
        del key, model, params
        return jnp.zeros((), jnp.uint32)

    def draw(
        self, key: Key, model: Any, params: PyTree, state: jax.Array, batch: PyTree
    ) -> tuple[Negatives, jax.Array]:
        """Returns as many negatives as `batch` has rows, each `k` steps away from one of them."""
        start = pack_chains(self.kernel, params, whole(model, batch))
        chains, info = run_chains(jax.random.fold_in(key, state), self.kernel, params, start, self.k)
        positions = visible_part(model, self.kernel.packed_positions(chains))
        return Negatives(positions, None, info), state + jnp.uint32(1)


def cd(kernel: Kernel, k: int = 1) -> ContrastiveDivergence:
    """Contrastive divergence: chains start at the batch and take `k` steps of `kernel` (Hinton 2002).

    Negatives ~ Tᵏ(· | data), as many as the batch has rows. The hidden part of a start is `model.complete(v)`: a kernel
    that draws the hidden sites first, as an RBM's default blocks do, never looks at it. The gradient is biased, the
    less so the larger `k`. Raises ValueError when `k` is under 1.
    """
    return ContrastiveDivergence(_check_kernel(kernel), checks.check_integer("k", k, 1))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("kernel", "start"), meta_fields=("k", "n_chains")
)
@dataclass(frozen=True, eq=False)
class PersistentChains:
    """What `pcd` builds. Its state is the chains in the kernel's packed form; `chains` and `positions` unpack them."""

    kernel: Any
    start: PyTree
    k: int
    n_chains: int

    def init(self, key: Key, model: Any, params: PyTree) -> PyTree:
        """Returns chains at the positions given to `pcd`, else at uniform random levels.

        Raises ValueError when the positions do not fit the kernel, or there are none and the model has no levels.
        """
        positions = self.start
        if positions is None:
            if not (hasattr(model, "from_levels") or hasattr(model, "draw_position")):
                raise ValueError(
                    f"{model!r} has no discrete levels to draw the persistent chains from; give their starting "
                    "positions: pcd(kernel, k, init=positions)"
                )
            positions = init_chains(key, model, self.n_chains)
        self.kernel.check(params, positions, None)
        return _start(self.kernel, params, positions)

    def draw(
        self, key: Key, model: Any, params: PyTree, state: PyTree, batch: PyTree
    ) -> tuple[Negatives, PyTree]:
        """Returns the chains `k` steps on; `batch` plays no part."""
        del batch
        seen = None
        if has_contrast(model) and getattr(self.kernel, "tells_inputs", False):
            keys = packed_chain_keys(key, self.kernel, state)
            chains, info, seen = self.kernel.packed_steps_and_inputs(keys, params, state, self.k)
        else:
            chains, info = run_chains(key, self.kernel, params, state, self.k)
        positions = visible_part(model, self.kernel.packed_positions(chains))
        return Negatives(positions, None, info, seen), chains

    def chains(self, state: PyTree) -> PyTree:
        """Returns the kernel's states with a leading chain axis, as `sample(init=…)` takes them."""
        return self.kernel.unpack(state)

    def positions(self, state: PyTree) -> PyTree:
        """Returns the configurations with a leading chain axis, hidden sites included."""
        return self.kernel.packed_positions(state)


def pcd(kernel: Kernel, k: int = 1, n_chains: int | None = None, *, init: PyTree = None) -> PersistentChains:
    """Persistent contrastive divergence: chains go on from step to step (Younes 1989; Tieleman 2008).

    Negatives are the positions of `n_chains` chains (default 128) after `k` further steps of `kernel` at the current
    parameters. They follow the model as long as the parameters move slowly beside the chains' mixing. An RBM is trained
    fastest by sweeps that end with the hidden layer, `gibbs(model, BlockSpec(model.default_spec().free[::-1]))`: the
    gradient needs the very inputs that the layer was drawn from, and a step saves one of six matrix products.
    init: starting positions with a leading chain axis, which is then `n_chains`; default: uniform random levels.
    Raises ValueError when `k` or `n_chains` is under 1, or `n_chains` is not the length of `init`.
    """
    if init is not None:
        lengths = sorted({leaf.shape[0] if getattr(leaf, "ndim", 0) else 0 for leaf in jax.tree.leaves(init)})
        if len(lengths) != 1 or lengths[0] < 1:
            raise ValueError(
                f"init has leading axes {lengths}; give every leaf the same number of chains, at least 1"
            )
        if n_chains is not None and n_chains != lengths[0]:
            raise ValueError(f"n_chains is {n_chains} and init holds {lengths[0]} chains; leave n_chains out")
        n_chains = lengths[0]
    n_chains = checks.check_integer("n_chains", 128 if n_chains is None else n_chains, 1)
    return PersistentChains(_check_kernel(kernel), init, checks.check_integer("k", k, 1), n_chains)


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("model",))
@dataclass(frozen=True, eq=False)
class Enumerated:
    """What `exact` builds. Its state is every configuration, or every visible one, leading axis first."""

    model: Any

    def init(self, key: Key, model: Any, params: PyTree) -> PyTree:
        """Returns the configurations. Raises ValueError past 2²⁰ of them."""
        del key, params
        layer = "visible" if hasattr(model, "free_energy") else None
        n_sites = self.model.n_visible if layer else self.model.graph.n_sites
        if self.model.n_levels**n_sites > MAX_STATES:
            raise ValueError(
                f"{self.model!r} has {self.model.n_levels}^{n_sites} configurations to sum at every step, and the "
                f"limit is 2^20 = {MAX_STATES:,}; train it with negatives.pcd(kernel)"
            )
        return enumeration.states(self.model, layer=layer)

    def draw(
        self, key: Key, model: Any, params: PyTree, state: PyTree, batch: PyTree
    ) -> tuple[Negatives, PyTree]:
        """Returns every configuration with weight exp(−F) / Σ exp(−F)."""
        del key, batch
        energies = jax.vmap(energy_of_data(model), (None, 0))(params, state)
        info = jax.tree.map(lambda leaf: leaf[None], Info.of(n_energy=energies.size))
        return Negatives(state, jax.nn.softmax(-energies), info), state


def exact(model: Any) -> Enumerated:
    """All configurations, weighted by their exact probabilities at the current parameters: maximum likelihood itself.

    For a model with a `free_energy`, all visible configurations. Only for small models: up to 2²⁰ configurations, all
    of which are summed at every step. Raises ValueError when the model is not discrete.
    """
    if not hasattr(model, "from_levels"):
        raise ValueError(
            f"{model!r} has no discrete levels to enumerate; use pcd with a kernel that samples it"
        )
    return Enumerated(model)


def pack_chains(kernel: Any, params: PyTree, positions: PyTree) -> PyTree:
    """Returns new chains at `positions` (leading chain axis) in the kernel's packed form."""
    return kernel.pack(params, jax.vmap(lambda x: kernel.init(params, x))(positions))


_start = jax.jit(
    pack_chains
)  # a kernel is an argument: one compilation, where eager operations would need several


def run_chains(key: Key, kernel: Any, params: PyTree, packed: PyTree, n: int) -> tuple[PyTree, Info]:
    """Takes `n` steps of packed chains at β = 1; chain i has the key `fold_in(key, i)`."""
    keys = packed_chain_keys(key, kernel, packed)
    return kernel.packed_steps(keys, params, jnp.ones((), jnp.float32), kernel.refresh(params, packed), n)


def packed_chain_keys(key: Key, kernel: Any, packed: PyTree) -> Key:
    """Returns the keys of packed chains, `fold_in(key, i)`."""
    n_chains = jax.eval_shape(kernel.unpack, packed).step.shape[0]
    return chain_keys(key, n_chains)


def _check_kernel(kernel: Any) -> Any:
    if not hasattr(kernel, "packed_steps"):
        raise ValueError(f"kernel is {kernel!r}; give a kernel such as gibbs(model)")
    return kernel
