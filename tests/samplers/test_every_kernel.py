"""What every public kernel does whatever its law: pieces, company, clamping, traces, and programs around its steps.

The kernels are those of the registry in `tests/kernels.py`. Their laws are in `test_certificate`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.certificate.laws import energies
from tests import kernels

N_CHAINS, CHAIN = 6, 4
KEY = jax.random.key(7)
# Options that change what a step compiles to.
OPTIONS = {
    "hmc, random length": lambda energy: ej.hmc(energy, 0.6, 4, random_length=True),
    "langevin, all options": lambda energy: ej.langevin(
        energy, lambda count: 0.3 / (1 + count), 0.5, clip=1.0, bounds=(-9, 9), boundary="reflect"
    ),
}
MAKERS = {(maker, system): kernels.REGISTRY[maker][system] for maker, system in kernels.representatives()}
MAKERS |= {(name, "gaussian"): make for name, make in OPTIONS.items()}


def test_every_public_kernel_is_registered():
    assert {maker for maker, _ in MAKERS} - set(OPTIONS) == kernels.public_makers()


TRACES = []


@jax.jit
def run(kernel, key, params, beta, states, n_steps):
    """States after a traced number of steps in the packed form: one program for whole runs and their pieces."""
    TRACES.append(kernel)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(N_CHAINS))
    packed = kernel.refresh(params, kernel.pack(params, states))
    return kernel.unpack(
        jax.lax.fori_loop(
            0, n_steps, lambda _, packed: kernel.packed_steps(keys, params, beta, packed, 1)[0], packed
        )
    )


@jax.jit
def slopes(kernel, key, params, betas, state):
    """A program around two steps of one chain: mapped over β, differentiated in the parameters and β."""

    def end(params, beta):
        after, info = kernel.steps(key, params, beta, state, 2)
        x = kernel.position(after)
        total = sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(x))
        return total, (x, info, kernel.energy_at(params, after))

    return jax.vmap(jax.grad(end, argnums=(0, 1), has_aux=True), (None, 0))(params, betas)


def first_element(leaf):
    """A mask that holds the first element of one configuration's leaf; a scalar is free."""
    mask = np.zeros(leaf.shape[1:], bool)
    mask.reshape(-1)[:1] = leaf.ndim > 1
    return mask


def smaller(tree):
    """Real numbers times 0.9, by NumPy."""

    def scale(leaf):
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(np.float32(0.9) * np.asarray(leaf)) if real else leaf

    return jax.tree.map(scale, tree)


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(("maker", "system"), MAKERS)
def test_pieces_company_clamping_traces_and_derivatives(maker, system):
    case = kernels.case(system)
    make = MAKERS[maker, system]
    kernel = make(case.model)
    x = jax.tree.map(np.asarray, case.start(jax.random.key(1), N_CHAINS))
    mask = jax.tree.map(first_element, x)
    init = jax.jit(jax.vmap(functools.partial(kernel.init, case.params), (0, (None, 0))))
    start = init(x, (mask, x))
    positions = jax.jit(jax.vmap(kernel.position))
    go = functools.partial(run, kernel, KEY, case.params, jnp.float32(0.7))

    whole = go(start, 6)
    assert same(go(go(start, 2), 4), whole), "a run in pieces is another run"
    traces = len(TRACES)
    assert (whole.step == 6).all()

    for before, after, held in zip(*map(jax.tree.leaves, (x, positions(whole), mask)), strict=True):
        changed = before != np.asarray(after)
        assert not changed[:, held].any(), "a clamped element moved"
        assert changed.any(), "nothing moved"

    other, scaled = smaller(case.params), smaller(kernel)
    run(scaled, jax.random.key(8), other, jnp.float32(0.5), start, 1)
    if maker not in OPTIONS:
        run(make(case.model), KEY, case.params, jnp.float32(0.7), start, 1)
    assert len(TRACES) == traces, "new numbers or a rebuilt kernel trace anew"

    one = jax.tree.map(lambda leaf: np.asarray(leaf)[CHAIN], start)
    key = jax.random.fold_in(KEY, CHAIN)
    betas = np.array([0.7, 0.4], np.float32)
    gradient, (alone, info, energy) = slopes(kernel, key, case.params, betas, one)
    company = jax.tree.map(lambda leaf: np.asarray(leaf)[CHAIN], positions(go(start, 2)))
    for p, q in zip(jax.tree.leaves(alone), jax.tree.leaves(company), strict=True):
        # Real numbers are summed in another order.
        np.testing.assert_allclose(np.asarray(p)[0], q, atol=1e-5 if q.dtype.kind == "f" else 0)
    assert (info.n_steps == 2).all()
    follows = energies(ej.samplers.base.energy_of(case.model), case.params, alone)
    np.testing.assert_allclose(energy, follows, rtol=1e-4, atol=1e-4)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    assert np.isfinite(flat).all()
    assert flat.any() == (not kernel.exact), "steps of adjusted kernels have no derivative, others have"
