"""ebm_jax: many steps of many chains in one compiled call, for each kind of task of the samplers suite.

A call continues from the state of the last call, so its draws are new. Calls that only count steps start again.
"""

import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from benchmarks.methods import Method
from benchmarks.tasks import samplers
from benchmarks.tasks.samplers import N_LEAPFROG, Task


def prepare(task: Task, device: str = "cpu", method: str = "ebm_jax") -> Method:
    """Compiles one of the task's methods. JAX chooses the device."""
    del device
    return _KINDS[task.kind](task, method)


def keys_of(n: int):
    """Returns the keys of the chains, as `sample` makes them."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), jnp.arange(n))


def _compiled(function, *arguments):
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _steps(kernel, keys, params, states, n):
    """Returns the final positions, and the mean acceptance of kernels that accept or reject."""
    packed, info = kernel.packed_steps(keys, params, 1.0, kernel.pack(params, states), n)
    accepts = hasattr(kernel, "target_acceptance")
    return kernel.packed_positions(packed), info.acceptance.mean() if accepts else None


def _continuous(task: Task, kernel, params, start) -> Method:
    states = jax.vmap(kernel.init, (None, 0))(params, start)
    arguments = kernel, keys_of(task.n_chains), params, states
    compiled, compiling = _compiled(functools.partial(_steps, n=task.n_steps), *arguments)
    return Method(0.0, 0.0, compiling, lambda: compiled(*arguments))


def _langevin(task: Task, method: str) -> Method:
    means, start = map(jnp.asarray, samplers.mixture(task))

    def energy(means, x):
        return x @ x / 2 - jax.nn.logsumexp(means @ x - jnp.sum(means**2, axis=1) / 2)

    return _continuous(task, ej.ula(energy, samplers.step_size(task)), means, start)


def _gaussian(task: Task, method: str) -> Method:
    precision, start = map(jnp.asarray, samplers.gaussian(task))

    def energy(precision, x):
        return 0.5 * jnp.dot(x, precision @ x)

    size = samplers.step_size(task)
    kernel = ej.mala(energy, size)
    if task.name == "hmc_gaussian":
        kernel = ej.hmc(energy, size, N_LEAPFROG, jitter=0.0)
    return _continuous(task, kernel, precision, start)


def _drawing(task: Task, method: str, kernel, params, start, look) -> Method:
    """Prepares a method that records `look(kernel, params, packed)` every `per_draw` steps of continuing chains."""
    every = task.of(task.per_draw, method)
    keys = keys_of(task.n_chains)

    def advance(kernel, keys, params, states):
        def body(packed, _):
            packed, _ = kernel.packed_steps(keys, params, 1.0, packed, every)
            return packed, look(kernel, params, packed)

        packed = kernel.refresh(params, kernel.pack(params, states))
        packed, draws = jax.lax.scan(body, packed, length=task.of(task.n_steps, method) // every)
        return kernel.unpack(packed), draws

    states = jax.vmap(kernel.init, (None, 0))(params, start)
    compiled, compiling = _compiled(advance, kernel, keys, params, states)

    def call():
        nonlocal states
        states, draws = compiled(kernel, keys, params, states)
        return draws

    path = getattr(kernel, "path", None)
    return Method(0.0, 0.0, compiling, call, path=path)


def _informed(task: Task, method: str) -> Method:
    model, params = samplers.digits_rbm(task.n_hidden, task.n_epochs, task.part)
    start, pixels = samplers.digits_start(task.n_chains, task.n_hidden, task.n_epochs, task.part)
    marginal = ej.Marginal(model)
    on_pixels = method in ("dmala", "gibbs_with_gradients")
    if method == "dmala":
        kernel, _ = ej.warm_up(jax.random.key(3), ej.dmala(marginal, 0.2), params, start[0], 300)
    else:
        kernel = getattr(ej, method)(marginal if on_pixels else model)

    def look(kernel, params, packed):
        x = kernel.packed_positions(packed)
        v = x if on_pixels else x[0]
        energies = jax.vmap(model.free_energy, (None, 0))(params, v)
        return {"free energy": energies, "pixels": v[:, pixels].astype(jnp.float32)}

    return _drawing(task, method, kernel, params, start[0] if on_pixels else start, look)


def _cluster(task: Task, method: str) -> Method:
    model, params = samplers.ising(task.side)
    params = params._replace(coupling=params.coupling * samplers.CRITICAL)
    kernel = getattr(ej, method)(model)
    mixed = ej.sample(
        jax.random.key(0),
        ej.swendsen_wang(model),
        params,
        ej.init_chains(jax.random.key(1), model, task.n_chains),
        ej.SamplingSchedule(n_warmup=200, n_samples=1, steps_per_sample=1),
    )

    def look(kernel, params, packed):
        return {"energy": kernel.packed_energies(params, packed)}

    return _drawing(task, method, kernel, params, mixed.positions[0], look)


def _tempering(task: Task, method: str) -> Method:
    """Prepares tempering. Every call counts round trips from zero, as the peer does."""
    kernel, states = samplers.ladder(task.side, task.n_rungs, task.n_chains, task.part)
    params = samplers.ising(task.side)[1]
    keys = keys_of(task.n_chains)

    def advance(kernel, keys, params, states):
        trip = jnp.where(states.rung == task.n_rungs - 1, 1, 0).astype(states.trip.dtype)
        states = states._replace(trip=trip, statistics=jax.tree.map(jnp.zeros_like, states.statistics))
        packed, _ = kernel.packed_steps(keys, params, 1.0, kernel.pack(params, states), task.n_steps)
        return kernel.unpack(packed), packed.statistics.n_round_trips.sum()

    compiled, compiling = _compiled(advance, kernel, keys, params, states)

    def call():
        nonlocal states
        states, trips = compiled(kernel, keys, params, states)
        return trips

    return Method(0.0, 0.0, compiling, call, path=kernel.kernel.path)


def _ais(task: Task, method: str) -> Method:
    """Prepares AIS. A call returns the absolute error of log Z in nats. The first call compiles."""
    model, params = samplers.digits_rbm(task.n_hidden, task.n_epochs, task.part)
    exact = float(ej.exact.log_partition(model, params))
    number = itertools.count()

    def call():
        key = jax.random.fold_in(jax.random.key(4), next(number))
        found = ej.partition.ais(key, model, params, betas=task.n_steps, n_chains=task.n_chains)
        return np.float64(abs(found.log_z - exact))

    start = time.perf_counter()
    call()
    return Method(0.0, 0.0, time.perf_counter() - start, call)


_KINDS = {
    "langevin": _langevin,
    "gaussian": _gaussian,
    "informed": _informed,
    "tempering": _tempering,
    "ais": _ais,
    "cluster": _cluster,
}
