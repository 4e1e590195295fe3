"""Run by `test_gibbs_devices.py` in a process of its own with four CPU devices: chains on several of them.

Prints a line for everything that holds, and exits with an error at the first that does not.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import ebm_jax as ej

N_CHAINS, N_STEPS = 8, 3
MODELS = {
    "grid Ising": ej.Ising(ej.Grid(4, 4, "periodic")),
    "bits Ising": ej.Ising(ej.Grid(8, 16, "periodic"), bias="tied"),
    "general": ej.Ising(ej.Graph(5, [(1, 0), (1, 2), (2, 0), (3, 2)])),
    "RBM": ej.RBM(7, 5),
}


def params_of(model):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape)), model.params_struct())


def stepped(kernels, keys, params, positions):
    """`vmap(kernel.steps)` of every model."""

    def run(kernel, p, xs):
        one = lambda key, x: kernel.steps(key, p, 0.8, kernel.init(p, x), N_STEPS)[0]  # noqa: E731
        return jax.vmap(one)(keys, xs)

    return {name: run(kernels[name], params[name], positions[name]).position for name in kernels}


def packed(kernels, keys, params, positions):
    """The kernel's own form for many chains."""

    def run(kernel, p, xs):
        states = jax.vmap(kernel.init, (None, 0))(p, xs)
        new, _ = kernel.packed_steps(keys, p, 0.8, kernel.pack(p, states), N_STEPS)
        return kernel.packed_positions(new)

    return {name: run(kernels[name], params[name], positions[name]) for name in kernels}


def assert_same(found, expected, what):
    for name in expected:
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=f"{what}, {name}")
    print(what, flush=True)


def mesh_of(n_devices, kind):
    return jax.make_mesh((n_devices,), ("chains",), axis_types=(kind,), devices=jax.devices()[:n_devices])


def sharded(mesh, tree):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("chains")))


def only(tables, *names):
    return [{name: table[name] for name in names} for table in tables]


def main():
    assert len(jax.devices()) == 4, jax.devices()
    kernels = {name: ej.gibbs(model) for name, model in MODELS.items()}
    params = {name: params_of(model) for name, model in MODELS.items()}
    positions = {name: ej.init_chains(jax.random.key(2), model, N_CHAINS) for name, model in MODELS.items()}
    keys = jax.random.split(jax.random.key(3), N_CHAINS)
    expected = jax.jit(stepped)(kernels, keys, params, positions)

    chains, everywhere = PartitionSpec("chains"), PartitionSpec()
    mesh = mesh_of(4, AxisType.Auto)
    # Of the grid by `shard_map` and on an explicit mesh: programs of several devices compile slowly.
    k, p, x, e = only((kernels, params, positions, expected), "bits Ising", "general", "RBM")
    assert_same(jax.jit(stepped)(k, sharded(mesh, keys), p, sharded(mesh, x)), e, "jit over 4")
    # The RBM's products could depend on how many chains are multiplied.
    k, p, x, e = only((kernels, params, positions, expected), "grid Ising", "RBM")
    mapped = jax.shard_map(
        stepped, mesh=mesh, in_specs=(everywhere, chains, everywhere, chains), out_specs=chains
    )
    assert_same(jax.jit(mapped)(k, keys, p, x), e, "shard_map over 4")

    k, p, x, e = only((kernels, params, positions, expected), "RBM")
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = mesh_of(2, kind)
        with jax.set_mesh(mesh):
            arguments = k, sharded(mesh, keys), p, sharded(mesh, x)
            assert_same(jax.jit(stepped)(*arguments), e, f"steps, {kind.name} mesh")
            # The drivers' own form, which they run with automatic axes.
            if kind == AxisType.Auto:
                assert_same(jax.jit(packed)(*arguments), e, f"packed_steps, {kind.name} mesh")

    def samples(x):
        schedule = ej.SamplingSchedule(1, 2)
        return ej.sample(jax.random.key(3), k["RBM"], p["RBM"], x, schedule, beta=0.8).positions

    alone = {"RBM": samples(x["RBM"])}
    mesh = mesh_of(2, AxisType.Auto)
    with jax.set_mesh(mesh):
        assert_same({"RBM": samples(sharded(mesh, x["RBM"]))}, alone, "sample, Auto mesh")
    mesh = mesh_of(2, AxisType.Explicit)
    with jax.set_mesh(mesh):
        assert_same({"RBM": samples(x["RBM"])}, alone, "sample, Explicit mesh, whole arrays")
    with jax.set_mesh(mesh):
        found = samples(sharded(mesh, x["RBM"]))
        assert all(leaf.sharding.spec[1] == "chains" for leaf in jax.tree.leaves(found)), found
        assert_same({"RBM": found}, alone, "sample, Explicit mesh")
        k, p, x, e = only((kernels, params, positions, expected), "grid Ising", "general", "bits Ising")
        arguments = k, sharded(mesh, keys), p, sharded(mesh, x)
        assert_same(jax.jit(stepped)(*arguments), e, "steps of grids and graphs, Explicit mesh")


if __name__ == "__main__":
    sys.exit(main())
