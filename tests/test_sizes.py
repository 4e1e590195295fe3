"""Sizes that no memory holds are refused with their bytes, before anything is allocated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import checks, partition
from ebm_jax.energies.networks import MLP

pytestmark = pytest.mark.usefixtures("as_shipped")
# More than any machine has, in whatever unit.
MANY = 10**18
KEY = jax.random.key(0)
MODEL = ej.RBM(6, 3)
PARAMS = MODEL.init(KEY)
KERNEL = ej.gibbs(MODEL)
START = ej.init_chains(KEY, MODEL, 4)
ROWS = np.zeros((4, 6), np.uint8)
# One table of 256⁵ weights.
LARGE_TABLE = ej.FactorGraph({"c": ej.Categories(5, 256)}, [ej.Factor(*(("c", i) for i in range(5)))])


def square(params, x):
    del params
    return jnp.sum(x**2) / 2


def sample(**options):
    return ej.sample(KEY, KERNEL, PARAMS, START, ej.SamplingSchedule(1, MANY), **options)


def fit(model, negatives, **options):
    return ej.fit(
        KEY, model, ROWS, tx=optax.sgd(0.1), negatives=negatives, n_epochs=1, batch_size=4, progress=False, **options
    )  # fmt: skip


def buffer(start):
    kernel = ej.langevin(square, 0.1, 0.1)
    source = ej.negatives.replay(kernel, k=1, n_chains=4, capacity=MANY, start=start)
    return source.init(KEY, None, None)


def ais_of_an_energy():
    def kernel(energy):
        return ej.mala(energy, 0.1)

    base = partition.standard_normal(jnp.zeros(3))
    return partition.ais(KEY, square, None, betas=4, n_chains=MANY, base=base, kernel=kernel)


@pytest.mark.parametrize(
    ("call", "n_bytes", "remedy"),
    [
        # Four chains of nine units of a byte, and a number for β.
        (lambda: sample(), 40, "lower n_samples"),
        (lambda: sample(progress=True), 40, "lower n_samples"),
        (lambda: sample(observe=MODEL.energy), 56, "lower n_samples"),
        (lambda: ej.init_chains(KEY, MODEL, MANY), 9, "lower n_chains"),
        (lambda: ej.schedules.linear(MANY), 8, "lower n"),
        (lambda: ej.schedules.geometric(MANY), 8, "lower n"),
        (lambda: ej.schedules.three_piece(MANY), 8, "lower n"),
        (lambda: partition.ais(KEY, MODEL, PARAMS, betas=MANY), 8, "lower betas"),
        (lambda: partition.ais(KEY, MODEL, PARAMS, betas=4, n_chains=MANY), 9, "lower n_chains"),
        (ais_of_an_energy, 12, "lower n_chains"),
        (lambda: partition.adaptive_ladder(KEY, MODEL, PARAMS, max_betas=MANY), 8, "lower max_betas"),
        (
            lambda: partition.log_likelihood_bounds(KEY, MODEL, PARAMS, ROWS, betas=4, n_chains=MANY),
            6,
            "lower n_chains",
        ),
        (lambda: ej.exact.sample(KEY, MODEL, PARAMS, MANY), 9, "lower n_samples"),
        (lambda: ej.RBM(7, MANY).init(KEY), 32, "make the model smaller"),
        (lambda: ej.Ising(ej.Grid(MANY, 3)).init(KEY), 12, "make the model smaller"),
        (lambda: ej.Potts(ej.Grid(MANY, 3), 3).init(KEY), 36, "make the model smaller"),
        (lambda: LARGE_TABLE.init(KEY), 4 * 256**5 / MANY, "make the model smaller"),
        (lambda: ej.NeuralEnergy(MLP((MANY,)), (4,)).init(KEY), 24, "make the model smaller"),
        (lambda: ej.gibbs(ej.Ising(ej.Grid(MANY, 3))), 24, "take a smaller graph"),
        (lambda: ej.Grid(MANY, 3, "periodic").edges, 48, "make the grid smaller"),
        (lambda: ej.local_grid(MANY, 3, [(0, 1)]), 48, "make the grid smaller"),
        (lambda: ej.RBM(MANY, 3).graph.edges, 24, "make the layers smaller"),
        (lambda: fit(MODEL, ej.negatives.pcd(KERNEL, n_chains=MANY)), 9, "lower n_chains"),
        (lambda: buffer(ej.negatives.starts.normal((6,))), 24, "lower capacity"),
        (lambda: buffer(ej.negatives.starts.rows(np.zeros((4, 6), np.float32))), 24, "lower capacity"),
        (lambda: ej.negatives.starts.uniform((6,))(KEY, MANY), 24, "lower n"),
    ],
)
def test_what_cannot_fit_is_refused_with_its_bytes(call, n_bytes, remedy):
    """`n_bytes` is that of one of `MANY`."""
    with pytest.raises(ValueError, match=f": {remedy}") as caught:
        call()
    words = str(caught.value).split()
    assert float(words[words.index("take") + 1]) == pytest.approx(n_bytes * MANY, rel=0.01)
    assert isinstance(caught.value, MemoryError)


def test_what_is_only_traced_is_not_refused():
    """`eval_shape` makes no arrays, and the compiler drops samples that nothing reads."""
    assert jax.eval_shape(ej.RBM(7, 10**17).init, KEY).weights.shape == (7, 10**17)

    @jax.jit
    def counts(key):
        start = ej.init_chains(KEY, MODEL, 4)
        return ej.sample(key, KERNEL, PARAMS, start, ej.SamplingSchedule(1, 10**9)).info

    assert counts.lower(KEY).out_info.n_steps.shape == (4,)


def test_steps_that_cannot_be_counted_are_refused():
    for schedule in ((2**31, 1), (1, 2, 2**31)):
        with pytest.raises(ValueError, match=r"fewer than 2³¹: take several, each with init=samples\.state"):
            ej.sample(KEY, KERNEL, PARAMS, START, ej.SamplingSchedule(*schedule))


def test_a_limit_of_a_control_group_counts(tmp_path, monkeypatch):
    """Of version 1 and 2; a limit above the group holds too, and a group may be given as it is called outside."""
    gigabyte = 2**30
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text(f"{3 * gigabyte}\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2 * gigabyte}\n")
    group = tmp_path / "cgroup"
    for line, limits in (("0::/a/b", [3]), ("4:cpu,memory:/elsewhere", [2]), ("9:pids:/a", []), ("0::/", [])):
        group.write_text(line + "\n")
        assert list(checks._group_limits(group, tmp_path)) == [n * gigabyte for n in limits]
    assert list(checks._group_limits(tmp_path / "none", tmp_path)) == []
    monkeypatch.setattr(checks, "_group_limits", lambda: iter([float(gigabyte)]))
    assert checks._host_memory() == gigabyte


def test_what_fits_passes(monkeypatch):
    monkeypatch.setattr(checks, "memory_size", lambda: 2.0**30)
    checks.check_fits("it", 2**30, "lower it")
    with pytest.raises(ValueError, match=r"it would take 1\.07e\+09 bytes, and there are 1\.07e\+09 bytes"):
        checks.check_fits("it", 2**30 + 1, "lower it")
