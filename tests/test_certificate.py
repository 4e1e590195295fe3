"""Every public kernel is certified on every kind of system; wrong kernels are not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.certificate import structure
from ebm_jax.certificate.laws import Law
from ebm_jax.certificate.trial import Trial
from ebm_jax.samplers.base import ChainState, Kernel
from ebm_jax.samplers.mala import MALA
from ebm_jax.types import Info
from tests import kernels, statistics, systems
from tests import test_exact_factors as graphs

CASES = [(maker, system) for maker, makes in kernels.REGISTRY.items() for system in makes]

# What one certificate compares: each β after 1 and after 20 steps, mixing, clamping.
COMPARISONS = 6
N_CHAINS = 4096


def certificate(kernel, case):
    statistics.spend(COMPARISONS)
    return ej.certify(
        kernel,
        case.model,
        case.params,
        key=jax.random.key(11),
        draws=case.draws,
        n_chains=N_CHAINS,
        false_positive_rate=COMPARISONS * statistics.ALPHA,
        show=False,
    )


def test_every_public_kernel_is_registered():
    makers = kernels.public_makers()
    assert makers == set(kernels.REGISTRY)


@pytest.mark.parametrize(("maker", "system"), CASES)
def test_certificates(maker, system):
    case = kernels.case(system)
    found = certificate(kernels.REGISTRY[maker][system](case.model), case)
    if maker not in kernels.BIASED:
        assert found.ok, found
        return
    assert found.biased, found
    assert not found.ok
    assert "not exact by its own account" in found["invariance"].detail
    if maker == "ula" and system == "gaussian":
        # A bias of 25 % of a variance has to show.
        assert "too small" not in found["invariance"].detail
    others = [check for check in found.checks if check.name != "invariance"]
    assert all(check.status != "FAILED" for check in others), found


# Wrong kernels, and the check that has to see what is wrong with them.


FAULTS = (
    ("none", None, "passed"),
    ("drifts", "invariance", "BIASED"),
    ("ignores beta", "invariance", "BIASED"),
    ("accepts too much", "invariance", "BIASED"),
    ("stands still", "purity", "FAILED"),
    ("never moves one coordinate", "mixing", "FAILED"),
    ("keeps a sign", "mixing", "FAILED"),
    ("same draws at every step", "purity", "FAILED"),
    ("ignores clamping", "clamping", "FAILED"),
    ("counts wrong", "dtype", "FAILED"),
)
NUMBERS = {fault: number for number, (fault, _, _) in enumerate(FAULTS)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mutant(Kernel):
    """A Gaussian's random-walk Metropolis kernel with a fault. The fault is a number, so all share one program."""

    fault: jax.Array

    may_diverge = False
    energy_function = staticmethod(kernels.gaussian)

    def step(self, key, params, beta, state):
        def has(fault):
            return self.fault == NUMBERS[fault]

        step = jnp.where(has("same draws at every step"), jnp.uint32(0), state.step)
        move, decide = jax.random.split(jax.random.fold_in(key, step))
        x = state.position
        new = x + 1.2 * jax.random.normal(move, x.shape)
        new = new + jnp.where(has("drifts"), 0.1, 0.0)
        b = jnp.where(has("ignores beta"), 1.0, beta)
        ratio = -b * (self.energy_function(params, new) - self.energy_function(params, x))
        ratio = ratio + jnp.where(has("accepts too much"), 1.0, 0.0)
        accept = (jnp.log(jax.random.uniform(decide)) < ratio) & ~has("stands still")
        new = jnp.where(has("never moves one coordinate"), new.at[1].set(x[1]), new)
        new = jnp.where(accept, new, x)
        if state.clamped is not None:
            new = jnp.where(state.clamped & ~has("ignores clamping"), x, new)
        new = jnp.where(has("keeps a sign") & (jnp.sign(new) != jnp.sign(x)), x, new)
        count = jnp.where(has("counts wrong"), jnp.uint32(2), jnp.uint32(1))
        return ChainState(new, state.clamped, state.step + count), Info.of(n_steps=1)


@pytest.mark.parametrize(("fault", "check", "status"), FAULTS)
def test_wrong_kernels(fault, check, status):
    found = certificate(Mutant(jnp.int32(NUMBERS[fault])), kernels.case("gaussian"))
    if check is None:
        assert found.ok, found
        return
    assert not found.ok
    assert found[check].status == status, found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hotter(Kernel):
    """A kernel at 0.9 β."""

    kernel: Kernel

    may_diverge = False

    @property
    def energy_function(self):
        return self.kernel.model.energy

    def step(self, key, params, beta, state):
        return self.kernel.step(key, params, 0.9 * beta, state)


def test_discrete_mutants_are_told_apart():
    case = kernels.case("ising")
    found = certificate(Hotter(ej.gibbs(case.model)), case)
    assert found.biased, found


def test_chains_that_left_the_finite_numbers_are_reported_as_such():
    law = Law(*kernels.case("gaussian")[:2])
    start = np.zeros((10, 3), np.float32)
    ok, detail = law.compare(1.0, np.where(np.arange(10)[:, None] == 4, np.inf, start), start, 1e-6)
    assert not ok and "left the finite numbers" in detail


def test_rare_configurations_still_count():
    """A law so flat that no configuration is expected often: χ² joins neighbours, and does not join them all."""
    model = ej.Ising(ej.Grid(3, 4))
    law = Law(model, ej.IsingParams(jnp.full((3, 4), 0.02), jnp.full(2, 0.02)))
    probabilities = law.probabilities(1.0)
    draws = ej.exact.sample(jax.random.key(0), *law, 4000)
    assert law.chi_square_pvalue(draws, probabilities) > 1e-4
    assert law.chi_square_pvalue(np.zeros((4000, 3, 4), bool), probabilities) < 1e-12
    wrong = np.array(draws)
    wrong[:, 0, 0] |= wrong[:, 0, 1]
    fine, words = law.compare(1.0, wrong, draws, 1e-6)
    assert not fine
    assert "x[0] = 1" in words


def test_models_that_contradict_themselves():
    case = kernels.case("ising")

    @dataclasses.dataclass(frozen=True)
    class Wrong(ej.Ising):
        def conditional_logits(self, params, x):
            return 1.1 * super().conditional_logits(params, x)

    model = Wrong(case.model.graph, "edge")
    draws = ej.exact.sample(jax.random.key(0), case.model, case.params, 8)
    found = energy_check(ej.metropolis(model), case._replace(model=model), draws)
    assert found.status == "FAILED"
    assert "conditional_logits" in found.detail
    case = kernels.case("gaussian")
    doubled = ej.mala(lambda p, x: 2 * kernels.gaussian(p, x), 0.5)
    found = energy_check(doubled, case, case.draws(jax.random.key(0), 8, 1.0))
    assert found.status == "FAILED"
    assert "the kernel's energy" in found.detail


def energy_check(kernel, case, draws):
    trial = Trial(kernel, Law(case.model, case.params), case.draws, 8, 1e-6)
    return structure.check_energy(trial, jax.random.key(1), draws)


def test_large_models_drawn_exactly():
    model = ej.Potts(ej.Graph(30, [(i, (i - 1) // 2) for i in range(1, 30)]), 3)
    params = systems.draw_params(model, scale=0.4)
    found = certificate(ej.gibbs(model), kernels.Case(model, params))
    assert found.ok, found
    # By means: there are too many configurations for χ².
    assert "sd" in found["invariance"].detail


def test_prints_a_table(capsys):
    case = kernels.case("two_wells")
    found = ej.certify(
        kernels.REGISTRY["mala"]["two_wells"](case.model),
        case.model,
        case.params,
        key=jax.random.key(0),
        draws=case.draws,
        n_chains=N_CHAINS,
        betas=(1.0,),
    )
    printed = capsys.readouterr().out
    assert printed.strip() == repr(found)
    assert printed.splitlines()[0] == "MALA on two_wells: ok"
    assert [line.split()[0] for line in printed.splitlines()[1:]] == [c.name for c in found.checks]
    assert isinstance(found, ej.Certificate)
    assert max(map(len, printed.splitlines())) < 160


def test_what_it_refuses(as_shipped):
    case, key = kernels.case("gaussian"), jax.random.key(0)
    kernel = ej.mala(case.model, 1.0)
    with pytest.raises(ValueError, match="kernel is a function; give a kernel"):
        ej.certify(case.model, case.model, case.params, key=key, draws=case.draws)
    with pytest.raises(ValueError, match=r"gaussian has no draws of its own; give draws="):
        ej.certify(kernel, case.model, case.params, key=key)
    with pytest.raises(ValueError, match="betas is empty"):
        ej.certify(kernel, case.model, case.params, key=key, draws=case.draws, betas=())
    with pytest.raises(ValueError, match="false_positive_rate is 2"):
        ej.certify(kernel, case.model, case.params, key=key, draws=case.draws, false_positive_rate=2)
    with pytest.raises(ValueError, match="n_chains is 3"):
        ej.certify(kernel, case.model, case.params, key=key, draws=case.draws, n_chains=3)


def test_unadjusted_bias_follows_theory():
    """ULA's variance on E = x²/2 is 1/(1 − ε²/4): the bias shrinks as ε², and MALA has none."""
    n, variances = 200_000, {}

    def energy(params, x):
        return x**2 / 2

    for name, kernel in (
        ("ula 1.0", ej.ula(energy, 1.0)),
        ("ula 0.5", ej.ula(energy, 0.5)),
        ("mala", ej.mala(energy, 1.0)),
    ):
        start = jnp.asarray(np.random.default_rng(3).normal(size=n), jnp.float32)
        end = ej.sample(jax.random.key(4), kernel, (), start, ej.SamplingSchedule(60, 1, 60))
        variances[name] = float(np.var(np.asarray(end.positions, np.float64)))
    error = np.sqrt(2 / n)
    for name, variance in (("ula 1.0", 4 / 3), ("ula 0.5", 16 / 15), ("mala", 1.0)):
        z = (variances[name] / variance - 1) / error
        statistics.assert_plausible(2 * statistics.normal_sf(abs(z)), name)
    assert isinstance(ej.mala(kernels.gaussian, 1.0), MALA)


def factor_graph(which):
    model, params = getattr(graphs, which), getattr(graphs, f"{which}_PARAMS")
    return kernels.Case(model, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params))


def test_factor_graphs_of_mixed_kinds():
    case = factor_graph("DISCRETE")
    found = certificate(ej.gibbs(case.model), case)
    assert found.ok, found
    assert "conditionals agree" in found["energy"].detail
    assert "χ²" in found["invariance"].detail and "χ²" in found["clamping"].detail

    class Wrong(ej.FactorGraph):
        def conditional_logits(self, params, x):
            logits = super().conditional_logits(params, x)
            return {**logits, "c": 1.1 * logits["c"]}

    draws = ej.exact.sample(jax.random.key(0), case.model, case.params, 8)
    wrong = Wrong(case.model.kinds, case.model.factors)
    check = energy_check(ej.gibbs(case.model), case._replace(model=wrong), draws)
    assert check.status == "FAILED" and "conditional_logits" in check.detail


def test_factor_graphs_with_real_units():
    """χ² of the nodes with levels, means of the real units."""
    case = factor_graph("REAL")
    found = certificate(ej.gibbs(case.model), case)
    assert found.ok, found
    assert "χ²" in found["invariance"].detail
    assert "χ²" in found["clamping"].detail
    law = Law(case.model, case.params)
    draws = ej.exact.sample(jax.random.key(0), *case[:2], 4000)
    assert not law.compare(1.0, {**draws, "x": 1.2 * draws["x"]}, draws, 1e-6)[0]
    probabilities = law.probabilities(1.0)
    assert law.chi_square_pvalue(draws, probabilities) > 1e-4
    assert law.chi_square_pvalue({**draws, "s": ~draws["s"]}, probabilities) < 1e-12


@pytest.mark.parametrize("model", [ej.CategoricalRBM(2, 2, 3), ej.GaussianRBM(2, 2)], ids=str)
def test_rbms_whose_layers_differ(model):
    found = certificate(ej.gibbs(model), kernels.Case(model, systems.draw_params(model, scale=0.5)))
    assert found.ok, found
    assert "χ²" in found["invariance"].detail
