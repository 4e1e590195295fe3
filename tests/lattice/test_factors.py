"""Block Gibbs on factor graphs: laws of one sweep by enumeration, real units by closed form, a kind of a user's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ebm_jax as ej
from ebm_jax import rng
from ebm_jax.lattice import factors, terms
from tests import oracles, statistics

# With them: tables of one, two and three categories beside spins, more terms of a node than are written out, terms that
# differ in the order of their members, and a node of no term.
MIXED = ej.FactorGraph(
    {"s": ej.Spins(6), "c": ej.Categories(2, 3), "d": ej.Categories(1, 5), "alone": ej.Spins(1)},
    [
        ej.Factor(("s", 0), ("s", [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]), ("s", [2, 3, 4, 5, 3, 4, 5, 4, 5, 5])),
        ej.Factor(("s", [0, 1]), ("c", [0, 1]), ("s", [2, 3])),
        ej.Factor(("c", [1, 0]), ("d", 0)),
        ej.Factor(("d", 0), ("s", [1, 5])),
        ej.Factor(("s", 2), ("c", 0), ("c", 1), ("d", 0)),
        ej.Factor(("s", range(6))),
        ej.Factor(("c", [0, 1])),
    ],
)
BETA = 0.8


@dataclasses.dataclass(frozen=True)
class Counts(ej.NodeKind):
    """Numbers 0, 1, 2, … with the measure 1/x!: Poisson with mean exp(η) given the rest."""

    dtype = jnp.float32

    def evaluate(self, statistic, x):
        return x

    def draw(self, fields, words):
        # The distribution function at 0 … 29.
        k = jnp.arange(30.0)
        below = jax.scipy.special.gammaincc(k + 1, jnp.exp(fields["value"])[..., None])
        return jnp.sum(below <= rng.uniform(words[0])[..., None], axis=-1).astype(jnp.float32)


class Counted(Counts):
    """Values that can be counted, of a dtype that cannot count them."""

    n_values = 2


class OneForAll(Counts):
    """Draws a number for all nodes together."""

    def draw(self, fields, words):
        return super().draw(fields, words)[0]


class Wide(Counts):
    """A kind whose scale is no field, so that kinds of other scales are equal."""

    def __init__(self, n, scale):
        super().__init__(n)
        object.__setattr__(self, "scale", scale)


def draw_weights(model, seed=0, scale=0.5):
    generator = np.random.default_rng(seed)
    shapes = [struct.shape for struct in model.params_struct()]
    return tuple(jnp.asarray(scale * generator.normal(size=shape), jnp.float32) for shape in shapes)


def law_of_a_sweep(energy, groups, start):
    """The law of a configuration after one sweep from `start`, one axis a site."""
    weights, law = np.exp(-BETA * energy), np.zeros(energy.shape)
    law[tuple(start)] = 1
    for group in groups:
        axes = tuple(group.tolist())
        law = law.sum(axis=axes, keepdims=True) * weights / weights.sum(axis=axes, keepdims=True)
    return law


def counts_after_a_sweep(kernel, params, starts, n_copies):
    model = kernel.model
    x = jax.vmap(model.from_levels)(jnp.asarray(np.repeat(starts, n_copies, axis=0), jnp.int32))
    end = ej.sample(jax.random.key(3), kernel, params, x, ej.SamplingSchedule(1, 1), beta=BETA).state.position
    numbers = np.ravel_multi_index(np.asarray(jax.vmap(model.levels)(end)).T, model.site_levels)
    rows = numbers.reshape(len(starts), n_copies)
    return np.stack([np.bincount(row, minlength=np.prod(model.site_levels)) for row in rows])


@pytest.fixture(scope="module")
def sweeps():
    """A kernel whose blocks mix kinds, and the law of one sweep from three configurations."""
    params, kernel = draw_weights(MIXED), ej.gibbs(MIXED)
    assert kernel.path == "factors"
    assert any(len({site < 6 for site in group.tolist()}) == 2 for group in kernel.spec.groups)
    starts = np.random.default_rng(1).integers(MIXED.site_levels, size=(3, 10))
    energy = oracles.factor_energies(MIXED, params)
    laws = np.stack([law_of_a_sweep(energy, kernel.spec.groups, start).ravel() for start in starts])
    return kernel, params, starts, laws


def test_one_sweep_has_its_exact_law(sweeps):
    kernel, params, starts, laws = sweeps
    counts = counts_after_a_sweep(kernel, params, starts, 40_000)
    statistics.assert_same_law(counts, laws, "a sweep of spins and categories")


MUTANTS = {
    "another sign": ("_statistics", lambda f: lambda *args: f(*args)._replace(is_up=None)),
    "another entry": ("table_entry", lambda f: lambda table, place, n: f(table, 0 * place, n)),
    "other weights": (
        "_by_node",
        lambda f: lambda n, node: f(n, node)._replace(order=np.roll(f(n, node).order, 1)),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_has_another_law(sweeps, monkeypatch, name):
    kernel, params, starts, laws = sweeps
    attribute, change = MUTANTS[name]
    module = factors if hasattr(factors, attribute) else terms
    monkeypatch.setattr(module, attribute, change(getattr(module, attribute)))
    # Other numbers of chains, so that no compiled program is reused.
    counts = counts_after_a_sweep(ej.gibbs(kernel.model), params, starts, 20_000 + len(name))
    statistics.assert_other_law(counts, laws, name)


def test_energies_conditionals_and_the_relaxed_energy(sweeps):
    """At all 5,760 configurations."""
    _, params, *_ = sweeps
    expected = oracles.factor_energies(MIXED, params)
    levels = oracles.states_of(MIXED.site_levels)
    x = jax.vmap(MIXED.from_levels)(jnp.asarray(levels, jnp.int32))
    found = np.asarray(jax.jit(jax.vmap(MIXED.energy, (None, 0)))(params, x))
    np.testing.assert_allclose(found, expected.ravel(), atol=2e-5)
    one_hot = {name: jax.nn.one_hot(x[name].astype(int), kind.n_values) for name, kind in MIXED.nodes}
    relaxed = jax.jit(jax.vmap(MIXED.energy_relaxed, (None, 0)))(params, one_hot)
    np.testing.assert_allclose(relaxed, expected.ravel(), atol=2e-5)
    # The category d, the sixth site, from the third configuration.
    at = levels[3000]
    logits = MIXED.conditional_logits(params, MIXED.from_levels(jnp.asarray(at)))
    own = expected[(*at[:8], slice(None), at[9])]
    np.testing.assert_allclose(logits["d"][0] - logits["d"][0, 0], own[0] - own, atol=2e-5)


REAL = ej.FactorGraph(
    {"x": ej.Gaussians(4), "s": ej.Spins(3), "c": ej.Categories(1, 2)},
    [
        ej.Factor(("x", range(4), "square")),
        ej.Factor(("x", [0, 1, 2]), ("x", [1, 2, 3])),
        ej.Factor(("x", [0, 1, 2]), ("s", [0, 1, 2])),
        ej.Factor(("x", 3), ("c", 0)),
        # Its precision depends on the category.
        ej.Factor(("x", [3], "square"), ("c", 0)),
        ej.Factor(("s", [0, 1]), ("s", [1, 2])),
        ej.Factor(("x", range(4))),
    ],
)
REAL_WEIGHTS = tuple(
    jnp.asarray(w, jnp.float32)
    for w in (
        [-0.5, -0.7, -0.9, -0.6],
        [0.3, -0.4, 0.2],
        [0.5, -0.3, 0.4],
        [[0.6, -0.8]],
        [[-0.4, 0.1]],
        [0.3, -0.5],
        [0.1, 0.0, -0.2, 0.3],
    )
)


def moments_by_integrals():
    """p of the 16 discrete configurations, with mean and covariance of the real units at each: exact."""
    squares, couplings, to_spins, to_category, of_category, of_spins, bias = (
        np.asarray(w, np.float64) for w in REAL_WEIGHTS
    )
    found = []
    for *spins, level in oracles.states_of((2, 2, 2, 2)):
        s = 2.0 * np.asarray(spins) - 1
        precision = np.diag(-2 * squares) - np.diag(couplings, 1) - np.diag(couplings, -1)
        precision[3, 3] -= 2 * of_category[0, level]
        field = bias + np.append(to_spins * s, to_category[0, level])
        covariance = np.linalg.inv(precision)
        log_weight = 0.5 * field @ covariance @ field + 0.5 * np.linalg.slogdet(covariance)[1]
        found.append((log_weight + of_spins @ (s[:-1] * s[1:]), covariance @ field, covariance))
    log_weights, means, covariances = map(np.stack, zip(*found, strict=True))
    p = np.exp(log_weights - log_weights.max())
    return p / p.sum(), means, covariances


def test_real_units_beside_discrete_ones():
    """After sweeps from afar, each real unit given the discrete ones is normal; discrete ones have their law."""
    n = 40_000
    kernel = ej.gibbs(REAL)
    assert kernel.may_diverge
    start = ej.init_chains(jax.random.key(0), REAL, n)
    x = ej.sample(jax.random.key(1), kernel, REAL_WEIGHTS, start, ej.SamplingSchedule(60, 1)).state.position
    number = np.asarray(8 * x["s"][:, 0] + 4 * x["s"][:, 1] + 2 * x["s"][:, 2] + x["c"][:, 0])
    p, means, covariances = moments_by_integrals()
    statistics.assert_same_law(np.bincount(number, minlength=16), p, "spins and a category beside real units")
    deviation = np.asarray(x["x"]) - means[number]
    whitened = np.linalg.solve(np.linalg.cholesky(covariances)[number], deviation[..., None])[..., 0]
    for unit in range(4):
        statistics.assert_plausible(scipy.stats.kstest(whitened[:, unit], "norm").pvalue, f"unit {unit}")
    correlation = np.corrcoef(whitened.T)[np.triu_indices(4, 1)] * np.sqrt(n)
    statistics.assert_plausible(scipy.stats.chi2.sf(np.sum(correlation**2), 6), "correlations of real units")


def test_real_units_that_diverge_are_reported():
    model = ej.FactorGraph(
        {"x": ej.Gaussians(2)}, [ej.Factor(("x", range(2), "square")), ej.Factor(("x", 0), ("x", 1))]
    )
    kernel, start = ej.gibbs(model), {"x": jnp.ones((3, 2))}
    no_law = (jnp.array([-0.5, 0.5]), jnp.zeros(1))
    with pytest.raises(ej.NonFiniteError, match="chain 0"):
        ej.sample(jax.random.key(0), kernel, no_law, start, ej.SamplingSchedule(5, 1))


def test_a_kind_of_ones_own():
    """Counts that see a spin: p(s) ∝ exp(b s + exp(a + w s)), and x given s is Poisson with mean exp(a + w s)."""
    model = ej.FactorGraph(
        {"x": Counts(1), "s": ej.Spins(1)},
        [ej.Factor(("x", 0), ("s", 0)), ej.Factor(("x", 0)), ej.Factor(("s", 0))],
    )
    w, a, b = 0.6, 0.2, -0.7
    start = {"x": jnp.zeros((20_000, 1)), "s": jnp.zeros((20_000, 1), bool)}
    params = tuple(jnp.array([value]) for value in (w, a, b))
    x = ej.sample(
        jax.random.key(0), ej.gibbs(model), params, start, ej.SamplingSchedule(40, 1)
    ).state.position
    count, up = np.asarray(x["x"][:, 0]).astype(int), np.asarray(x["s"][:, 0])
    means = np.exp(a + w * np.array([-1, 1]))
    law = np.exp(means + b * np.array([-1, 1]))
    law = law[:, None] / law.sum() * scipy.stats.poisson.pmf(np.arange(30), means[:, None])
    counts = np.bincount(30 * up + count, minlength=60)
    statistics.assert_same_law(counts, law.ravel() / law.sum(), "Poisson counts and a spin")


def test_chains_and_parameters_in_any_form():
    """Bits do not depend on what runs beside a chain; clamped values stay; parameters may be mapped over."""
    model = ej.FactorGraph(
        {"s": ej.Spins(3), "c": ej.Categories(2, 3)},
        [
            ej.Factor(("s", [0, 1]), ("s", [1, 2]), ("c", [0, 1])),
            # Two factors of one form: a field may be of one of them.
            ej.Factor(("c", range(2))),
            ej.Factor(("c", range(2))),
        ],
    )
    params, kernel, schedule = draw_weights(model), ej.gibbs(model), ej.SamplingSchedule(3, 2)
    start = ej.init_chains(jax.random.key(5), model, 65)
    many = ej.sample(jax.random.key(6), kernel, params, start, schedule)
    first = jax.tree.map(lambda leaf: leaf[:1], start)
    one = ej.sample(jax.random.key(6), kernel, params, first, schedule)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a[:, :1] == b).all()), many.positions, one.positions))

    mask = {"s": jnp.zeros((65, 3), bool), "c": jnp.zeros((65, 2), bool).at[:, 0].set(True)}
    values = {**start, "c": (start["c"] + 1) % 3}
    held = ej.sample(jax.random.key(6), kernel, params, start, schedule, clamped=(mask, values))
    assert (held.positions["c"][:, :, 0] == values["c"][:, 0]).all()
    assert (held.positions["c"][:, :, 1] != start["c"][:, 1]).any()

    both = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
    in_part = jax.vmap(
        lambda p: (
            ej.sample(jax.random.key(6), kernel, (*params[:1], p, *params[2:]), start, schedule).positions
        )
    )
    found = in_part(both[1])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a[0] == b).all()), found, many.positions))
    alike = jax.vmap(lambda p: ej.sample(jax.random.key(6), kernel, p, start, schedule).positions)(both)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a[0] == b).all()), alike, many.positions))

    field = (None, jnp.asarray(np.random.default_rng(0).normal(size=(65, 2, 3)), jnp.float32), None)
    own = ej.sample(jax.random.key(6), kernel, params, start, schedule, field=field)
    assert (own.positions["c"] != many.positions["c"]).any()
    last = jax.tree.map(lambda leaf: leaf[64:], (start, field))
    words = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(6), jnp.arange(64, 65))
    state = jax.vmap(kernel.init, (None, 0))(params, last[0])
    added = (params[0], params[1] + last[1][1][0], params[2])
    alone, _ = jax.vmap(lambda key, s: kernel.steps(key, added, 1.0, s, schedule.n_steps))(words, state)
    assert (alone.position["c"] == own.state.position["c"][64:]).all()


def test_draws_of_another_shape_are_refused():
    model = ej.FactorGraph({"n": OneForAll(2)}, [ej.Factor(("n", range(2)))])
    start = {"n": jnp.zeros((3, 2))}
    with pytest.raises(
        ValueError, match=r"OneForAll.draw gives .* shape \(3,\); it must give dtype float32 .* \(2, 3\)"
    ):
        ej.sample(jax.random.key(0), ej.gibbs(model), (jnp.zeros(2),), start, ej.SamplingSchedule(1, 1))


def test_equal_models_share_a_program():
    def build():
        return ej.FactorGraph({"s": ej.Spins(3)}, [ej.Factor(("s", [0, 1]), ("s", [1, 2]))])

    assert build() == build() == dataclasses.replace(build())
    assert hash(build()) == hash(build())
    assert build() != ej.FactorGraph({"s": ej.Spins(3)}, [ej.Factor(("s", [0, 1]), ("s", [2, 2]))])

    traces = []

    @jax.jit
    def run(kernel, x):
        traces.append(1)
        return kernel.pack(None, x)

    for _ in range(2):
        model = build()
        kernel = ej.gibbs(model)
        run(
            kernel,
            jax.vmap(kernel.init, (None, 0))(model.init(jax.random.key(0)), {"s": jnp.ones((2, 3), bool)}),
        )
    assert len(traces) == 1


S, X, C = ej.Spins(3), ej.Gaussians(2), ej.Categories(2, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ej.Factor(), "a factor needs a member"),
        (lambda: ej.Factor("s"), "a member of a factor is 's'; give"),
        (lambda: ej.Factor(("s", [0.5])), "numbers as a list of whole numbers"),
        (lambda: ej.Factor(("s", [2**32 + 1])), "names node 4294967297; numbers run from 0 to 2147483647"),
        (
            lambda: ej.FactorGraph({"n": Counted(2)}, []),
            "2 values of dtype float32; finitely many values are",
        ),
        (lambda: ej.Factor(("s", [0, 1]), ("s", [0, 1, 2])), "name 2 and 3 nodes; give one each a term"),
        (lambda: ej.FactorGraph([S], []), "give kinds by name"),
        (lambda: ej.FactorGraph({"s": 3}, []), r"nodes\['s'\] is 3; give names and kinds"),
        (lambda: ej.FactorGraph({"s": S}, None), "factors is None; give a list of Factor"),
        (
            lambda: ej.FactorGraph({"w": Wide(2, 3.0)}, []),
            "keeps scale outside its fields; write the kind as a frozen",
        ),
        (lambda: ej.FactorGraph({"s": S}, [("s", 0)]), "factor 0 is .*; give Factor"),
        (lambda: ej.FactorGraph({"s": S}, [ej.Factor(("t", 0))]), "names nodes 't'; there are 's': add them"),
        (
            lambda: ej.FactorGraph({"s": S}, [ej.Factor(("s", 3))]),
            "names node 3 of 's'; they run from 0 to 2",
        ),
        (
            lambda: ej.FactorGraph({"s": S}, [ej.Factor(("s", 0, "square"))]),
            "uses 'square' of 's'; choose one of",
        ),
        (lambda: ej.FactorGraph({"s": S}, [ej.Factor(("s", 0), ("s", 0))]), "reads a node twice"),
        (
            lambda: ej.FactorGraph({"x": X}, [ej.Factor(("x", 0, "square"))]),
            "node 1 of 'x' has no factor of its square",
        ),
        (lambda: ej.Spins(0), "n is 0; give a whole number of at least 1"),
        (lambda: ej.Categories(2, 300), "n_levels is 300"),
        (lambda: ej.FactorGraph({"s": S}, []).sites("t"), "there are no nodes 't'; choose one of 's'"),
        (lambda: ej.gibbs(ej.FactorGraph({"s": S}, []), path="grid"), 'path="grid" does not fit'),
    ],
)
def test_what_does_not_fit_is_said(build, message):
    with pytest.raises(ValueError, match=message):
        build()
