"""Every public kernel is certified on every kind of system; wrong kernels are not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.certificate.laws import Law
from ebm_jax.samplers.base import ChainState, Kernel
from ebm_jax.samplers.mala import MALA
from ebm_jax.types import Info
from tests import kernels, statistics

CASES = [(maker, system) for maker, makes in kernels.REGISTRY.items() for system in makes]
COMPARISONS = 6  # what one certificate compares: each β after 1 and after 20 steps, mixing, clamping


def certificate(kernel, case, *, n_chains=4096):
    statistics.spend(COMPARISONS)
    return ej.certify(
        kernel,
        case.model,
        case.params,
        key=jax.random.key(11),
        draws=case.draws,
        n_chains=n_chains,
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
        assert "too small" not in found["invariance"].detail  # a bias of 25 % of a variance has to show
    others = [check for check in found.checks if check.name != "invariance"]
    assert all(check.status != "FAILED" for check in others), found


# Wrong kernels, and the check that has to see what is wrong with them.


@jax.tree_util.register_pytree_node_class
class Mutant(Kernel):
    """A Gaussian's random-walk Metropolis kernel with a fault."""

    may_diverge = False

    def __init__(self, fault):
        self.fault = fault

    def tree_flatten(self):
        return (), self.fault

    @classmethod
    def tree_unflatten(cls, fault, _):
        return cls(fault)

    energy_function = staticmethod(kernels.gaussian)

    def step(self, key, params, beta, state):
        step = jnp.uint32(0) if self.fault == "same draws at every step" else state.step
        move, decide = jax.random.split(jax.random.fold_in(key, step))
        x = state.position
        new = x + 1.2 * jax.random.normal(move, x.shape)
        if self.fault == "drifts":
            new = new + 0.1
        b = 1.0 if self.fault == "ignores beta" else beta
        ratio = -b * (self.energy_function(params, new) - self.energy_function(params, x))
        accept = jnp.log(jax.random.uniform(decide)) < ratio
        if self.fault == "accepts too much":
            accept = jnp.log(jax.random.uniform(decide)) < ratio + 1.0
        if self.fault == "stands still":
            accept = False
        if self.fault == "never moves one coordinate":
            new = new.at[1].set(x[1])
        new = jnp.where(accept, new, x)
        if state.clamped is not None and self.fault != "ignores clamping":
            new = jnp.where(state.clamped, x, new)
        if self.fault == "keeps a sign":
            new = jnp.where(jnp.sign(new) == jnp.sign(x), new, x)
        count = jnp.uint32(2 if self.fault == "counts wrong" else 1)
        return ChainState(new, state.clamped, state.step + count), Info.of(n_steps=1)


@pytest.mark.parametrize(
    ("fault", "check", "status"),
    [
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
    ],
)
def test_wrong_kernels(fault, check, status):
    found = certificate(Mutant(fault), kernels.case("gaussian"))
    if check is None:
        assert found.ok, found
        return
    assert not found.ok
    assert found[check].status == status, found


def test_discrete_mutants_are_told_apart():
    case = kernels.case("ising")
    hot = functools.partial(kernels.REGISTRY["gibbs"]["ising"], case.model)()

    @jax.tree_util.register_pytree_node_class
    class Hotter(Kernel):
        may_diverge = False
        energy_function = staticmethod(case.model.energy)

        def tree_flatten(self):
            return (), None

        @classmethod
        def tree_unflatten(cls, *_):
            return cls()

        def step(self, key, params, beta, state):
            return hot.step(key, params, 0.9 * beta, state)

    found = certificate(Hotter(), case)
    assert found.biased, found


def test_nested_compositions_share_no_draws():
    """Members of members with one key would propose alike: a cycle in a cycle, and a mixture in a mixture."""
    case, mala = kernels.case("gaussian"), kernels.REGISTRY["mala"]["gaussian"](kernels.gaussian)
    assert certificate(ej.cycle([ej.cycle([mala, mala]), mala]), case).ok
    tempered = ej.parallel_tempering(
        ej.mixture([ej.mixture([mala, mala], [0.5, 0.5]), mala], [0.5, 0.5]), [0.5, 1.0]
    )
    assert certificate(tempered, case).ok


def test_rare_configurations_still_count():
    """A law so flat that no configuration is expected often: χ² joins neighbours, and does not join them all."""
    model = ej.Ising(ej.Grid(3, 4))
    law = Law(model, ej.IsingParams(jnp.full((3, 4), 0.02), jnp.full(2, 0.02)))
    probabilities = law.probabilities(1.0)
    draws = ej.exact.sample(jax.random.key(0), *law, 4000)
    assert law.chi_square_pvalue(draws, probabilities) > 1e-4
    assert law.chi_square_pvalue(jnp.zeros((4000, 3, 4), bool), probabilities) < 1e-12
    fine, words = law.compare(1.0, draws.at[:, 0, 0].set(draws[:, 0, 0] | draws[:, 0, 1]), draws, 1e-6)
    assert not fine
    assert "x[0] = 1" in words


def test_models_that_contradict_themselves():
    case = kernels.case("ising")

    @dataclasses.dataclass(frozen=True)
    class Wrong(ej.Ising):
        def conditional_logits(self, params, x):
            return 1.1 * super().conditional_logits(params, x)

    model = Wrong(case.model.graph, "edge")
    found = certificate(ej.metropolis(model), case._replace(model=model))
    assert found["energy"].status == "FAILED"
    assert "conditional_logits" in found["energy"].detail
    found = certificate(ej.mala(lambda p, x: 2 * kernels.gaussian(p, x), 0.5), kernels.case("gaussian"))
    assert found["energy"].status == "FAILED"


LARGE = {
    "strip": ej.Ising(ej.Grid(3, 14)),
    "tree": ej.Potts(ej.Graph(30, [(i, (i - 1) // 2) for i in range(1, 30)]), 3),
    "rbm": ej.RBM(40, 10),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_models_drawn_exactly(name):
    model = LARGE[name]
    struct = model.params_struct()
    drawn = [0.4 * jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(struct)]
    found = certificate(ej.gibbs(model), kernels.Case(model, type(struct)(*drawn)))
    assert found.ok, found
    assert "sd" in found["invariance"].detail  # by means: there are too many configurations for χ²


def test_prints_a_table(capsys):
    case = kernels.case("gaussian")
    found = ej.certify(
        ej.mala(case.model, 1.0),
        case.model,
        case.params,
        key=jax.random.key(0),
        draws=case.draws,
        n_chains=500,
        betas=(1.0,),
    )
    printed = capsys.readouterr().out
    assert printed.strip() == repr(found)
    assert printed.splitlines()[0] == "MALA on gaussian: ok"
    assert [line.split()[0] for line in printed.splitlines()[1:]] == [c.name for c in found.checks]
    assert isinstance(found, ej.Certificate)
    assert max(map(len, printed.splitlines())) < 160


def test_what_it_refuses(as_shipped):
    case, key = kernels.case("gaussian"), jax.random.key(0)
    kernel = ej.mala(case.model, 1.0)
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
    n, seen = 200_000, {}
    for name, kernel in (
        ("ula 1.0", ej.ula(lambda p, x: x**2 / 2, 1.0)),
        ("ula 0.5", ej.ula(lambda p, x: x**2 / 2, 0.5)),
        ("mala", ej.mala(lambda p, x: x**2 / 2, 1.0)),
        ("hmc", ej.hmc(lambda p, x: x**2 / 2, 0.7, 3)),
    ):
        start = jax.random.normal(jax.random.key(3), (n,))
        end = ej.sample(jax.random.key(4), kernel, (), start, ej.SamplingSchedule(60, 1, 1))
        seen[name] = float(np.var(np.asarray(end.positions, np.float64)))
    error = np.sqrt(2 / n)
    for name, variance in (("ula 1.0", 4 / 3), ("ula 0.5", 16 / 15), ("mala", 1.0), ("hmc", 1.0)):
        z = (seen[name] / variance - 1) / error
        statistics.assert_plausible(2 * statistics.normal_sf(abs(z)), name)
    assert isinstance(ej.mala(kernels.gaussian, 1.0), MALA)
