"""What people give by mistake, and the line that says how to do it."""

import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tqdm.auto

import ebm_jax as ej
from ebm_jax import partition, run

pytestmark = pytest.mark.usefixtures("as_shipped")
KEY = jax.random.key(0)
MODEL = ej.RBM(6, 3)
SOURCE = ej.negatives.pcd(ej.gibbs(MODEL), n_chains=4)
DATA = np.random.default_rng(0).integers(0, 2, (8, 6)).astype(np.uint8)


def fit(data=DATA, n_epochs=3, **options):
    return ej.fit(
        KEY,
        MODEL,
        data,
        tx=optax.sgd(0.1),
        negatives=SOURCE,
        n_epochs=n_epochs,
        batch_size=4,
        progress=False,
        **options,
    )


def test_images_where_rows_are_wanted():
    with pytest.raises(ValueError, match=r"has shape \(8, 2, 3\).*use .reshape\(8, 6\)"):
        fit(DATA.reshape(8, 2, 3))


def test_an_energy_without_parameters():
    for build in (lambda e: ej.mala(e, 0.1), lambda e: ej.make_train_step(e, optax.sgd(0.1), SOURCE)):
        with pytest.raises(ValueError, match=r"takes \(x\); give energy\(params, x\)"):
            build(lambda x: jnp.sum(x**2))


def test_ais_in_a_traced_function():
    params = MODEL.init(KEY)
    with pytest.raises(ValueError, match=r"ais is called inside jit.*call it outside"):
        jax.jit(lambda p: partition.ais(KEY, MODEL, p, betas=4, n_chains=2).log_z)(params)


def test_beta_may_be_a_list():
    kernel, params, x = ej.gibbs(MODEL), MODEL.init(KEY), ej.init_chains(KEY, MODEL, 4)
    betas = [0.5, 0.7, 1.0]
    schedule = ej.SamplingSchedule(1, 3, 1)
    one, other = (
        ej.sample(KEY, kernel, params, x, schedule, beta=b).positions for b in (betas, np.float32(betas))
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="give a real number"):
        ej.sample(KEY, kernel, params, x, schedule, beta=["hot"])


def test_an_interrupt_of_sample_keeps_what_there_is(monkeypatch):
    """With a bar a run of seven samples is made in seven pieces; the interrupt comes after the third."""
    kernel, params, x = ej.metropolis(MODEL), MODEL.init(KEY), ej.init_chains(KEY, MODEL, 4)
    whole = ej.sample(KEY, kernel, params, x, ej.SamplingSchedule(2, 7), observe=MODEL.energy)
    bar = tqdm.auto.tqdm

    def interrupted(after):
        n = itertools.count(1)

        def update(self, by=1):
            if next(n) == after:
                raise KeyboardInterrupt

        monkeypatch.setattr(bar, "update", update)
        return ej.sample(
            KEY, kernel, params, x, ej.SamplingSchedule(2, 7), observe=MODEL.energy, progress=True
        )

    with pytest.warns(UserWarning, match="interrupted after 3 samples; the result holds these"):
        found = interrupted(3)
    for got, all_of_it in zip(found[:2], whole[:2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, jax.tree.map(lambda leaf: leaf[:3], all_of_it))
    # The states belong to the last sample, from where the run goes on with the bits of the whole.
    rest = ej.sample(KEY, kernel, params, found.state, ej.SamplingSchedule(1, 4), observe=MODEL.energy)
    np.testing.assert_array_equal(rest.observed, whole.observed[3:])
    # Before the first sample there is nothing to return.
    monkeypatch.setattr(run, "_run", lambda *arguments: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        interrupted(1)


def test_a_callback_or_an_interrupt_ends_training_and_keeps_what_there_is():
    whole = fit(n_epochs=2).metrics.loss
    for answer in (True, np.bool_(True), jnp.bool_(True)):
        stopped = fit(
            n_epochs=9, callback=lambda epoch, state, metrics, answer=answer: answer if epoch else None
        )
        np.testing.assert_array_equal(stopped.metrics.loss, whole)
        assert int(stopped.state.step) == 4
    # Anything but a truth value goes on.
    assert fit(n_epochs=2, callback=lambda epoch, state, metrics: metrics).metrics.loss.shape == (2, 2)

    def interrupt(epoch, state, metrics):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 2 of 9 epochs"):
        stopped = fit(n_epochs=9, callback=interrupt)
    np.testing.assert_array_equal(stopped.metrics.loss, whole)
