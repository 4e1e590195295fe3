"""What is measured of a trained RBM."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import exact, metrics, partition
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.experiment.recipes.rbm.config import RBMEvaluationConfig
from ebm_jax.experiment.recipes.rbm.data import Bits, log_odds
from ebm_jax.experiment.recipes.rbm.sampling import TRAIN_ROWS, Chains, run_chains

_EXACT_UNITS = 20


class Evaluation:
    """The context of one evaluation. Each method measures a group of `metrics.METRICS`.

    Numbers are in nats where they are log-probabilities, and in sweeps where they are times.

    Args:
      model: The RBM.
      params: Its parameters.
      bits: The data.
      key: A typed key.
      settings: The section `evaluation` of the configuration.
      groups: Groups that will be measured. The number of chains depends on them.
    """

    def __init__(
        self,
        model: RBM,
        params: RBMParams,
        bits: Bits,
        key: jax.Array,
        settings: RBMEvaluationConfig,
        groups: Iterable[str],
    ) -> None:
        self.model = model
        self.params = params
        self.bits = bits
        self.settings = settings
        self.train_bits = bits.train_bits[:TRAIN_ROWS]
        self.few_test_bits = bits.test_bits[: settings.n_test]
        self.chains_key, self.ais_key = jax.random.split(key)
        n_ais_chains = settings.ais_chains if "likelihood" in groups else 0
        self.n_chains = max(settings.n_chains, n_ais_chains)

    @functools.cached_property
    def chains(self) -> Chains:
        """Gibbs chains from training rows, shared by `likelihood` and `mixing`."""
        return run_chains(
            self.model,
            self.params,
            self.train_bits,
            self.chains_key,
            self.n_chains,
            self.settings.chain_steps,
        )

    def likelihood(self) -> dict[str, float]:
        """Returns bounds on the mean log-likelihood of the test rows; nothing where no log Z is asked for.

        The upper estimate of log Z comes from reverse AIS, which starts where Gibbs chains end, and the lower one from
        forward AIS, so `log_likelihood_lower` uses the first and `log_likelihood_upper` the second. With the exact
        log Z both are equal. `log_likelihood_train` is of training rows, as the upper one.
        """
        log_z = self._log_z()
        if not log_z:
            return {}
        below, above = log_z["log_z_forward"], log_z["log_z_reverse"]
        of_test, of_train = self._mean_free_energies
        return {
            "log_likelihood_lower": -of_test - above,
            "log_likelihood_upper": -of_test - below,
            "log_likelihood_train": -of_train - below,
            **log_z,
        }

    def mixing(self) -> dict[str, float]:
        """Returns how Gibbs chains from training rows mix, by their free energy."""
        return self.chains.mixing

    def pseudo_likelihood(self) -> dict[str, float]:
        """Returns the pseudo-log-likelihood of test rows."""
        value = metrics.pseudo_log_likelihood(self.model, self.params, self.few_test_bits)
        return {"pseudo_log_likelihood": value}

    def reconstruction(self) -> dict[str, float]:
        """Returns the reconstruction error of test rows."""
        value = metrics.reconstruction_error(self.model, self.params, self.few_test_bits)
        return {"reconstruction_error": value}

    def free_energy_gap(self) -> dict[str, float]:
        """Returns the mean F of test rows less that of training rows, which grows as a model overfits."""
        of_test, of_train = self._mean_free_energies
        return {"free_energy_gap": of_test - of_train}

    @functools.cached_property
    def _mean_free_energies(self) -> tuple[float, float]:
        """Mean F of test rows and of training rows."""
        of_test, of_train = (
            mean_free_energy(self.model, self.params, rows) for rows in (self.bits.test_bits, self.train_bits)
        )
        return of_test, of_train

    def _log_z(self) -> dict[str, float]:
        """Both estimates of log Z with their errors; empty if there are none."""
        settings = self.settings
        if settings.exact and min(self.model.n_visible, self.model.n_hidden) <= _EXACT_UNITS:
            log_z = exact.log_partition(self.model, self.params)
            return {"log_z_forward": log_z, "log_z_reverse": log_z}
        if not settings.ais_betas:
            return {}
        common: Any = {"betas": settings.ais_betas, "base": base_of(self.model, self.bits)}
        one, two = jax.random.split(self.ais_key)
        forward = partition.ais(one, self.model, self.params, n_chains=settings.ais_chains, **common)
        starts = self.chains.ends[: settings.ais_chains]
        reverse = partition.reverse_ais(two, self.model, self.params, starts, **common)
        return {
            "log_z_forward": forward.log_z,
            "log_z_reverse": reverse.log_z,
            "log_z_forward_low": forward.interval[0],
            "log_z_reverse_high": reverse.interval[1],
            "ais_forward_spread": forward.spread,
            "ais_reverse_spread": reverse.spread,
            "ais_forward_ess": forward.ess,
            "ais_reverse_ess": reverse.ess,
        }


def base_of(model: RBM, bits: Bits) -> RBMParams:
    """Returns the independent model of the pixels' means, where AIS starts (Salakhutdinov and Murray 2008)."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.params_struct())
    return zeros._replace(visible_bias=log_odds(bits.mean, len(bits.train)))


def mean_free_energy(model: RBM, params: RBMParams, rows: np.ndarray) -> float:
    """Returns the mean of F over rows of bits, added up in float64."""
    each = [_free_energies(model, params, jnp.asarray(rows[i : i + 2000])) for i in range(0, len(rows), 2000)]
    return float(np.mean(np.concatenate([np.asarray(part, np.float64) for part in each])))


@functools.partial(jax.jit, static_argnums=0)
def _free_energies(model: RBM, params: RBMParams, rows: jax.Array) -> jax.Array:
    return jax.vmap(model.free_energy, (None, 0))(params, rows)
