"""What tests of runs share: a tiny configuration, runs that are interrupted, and what must be equal in equal runs."""

import functools
import hashlib

import jax
import numpy as np
import pytest

from ebm_jax.experiment import report
from ebm_jax.experiment.config import parse_config
from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import stored_config

RBM = find("rbm")
TINY = {
    "name": "tiny",
    "data": {"name": "digits", "n_train": 300, "n_test": 60},
    "model": {"n_hidden": 8},
    "negatives": {"method": "pcd", "n_chains": 16},
    "training": {"n_epochs": 4, "batch_size": 50, "steps_per_call": 3, "momentum": 0.5},
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"every_epochs": 2, "chain_steps": 20, "n_chains": 8, "n_test": 20},
}


def config(**sections):
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
    for name, values in sections.items():
        merged[name] = {**merged.get(name, {}), **values} if isinstance(values, dict) else values
    return parse_config(merged)


# Equal configurations share one experiment, and so what was compiled. A run builds its own otherwise.
built = functools.cache(RBM.build)
write_run = report.write_run


def last_state(path, step=None):
    """Returns the step and the train state of a checkpoint of a run, by default the newest."""
    config = stored_config(path)
    checkpoints = Checkpoints(path / "checkpoints")
    step = checkpoints.steps()[-1] if step is None else step
    return step, checkpoints.load(step, find(config.recipe).struct(config)).tree


def fingerprint(path):
    """All that must be the same in equal runs: the last step, its state, the draws, the metrics."""
    step, state = last_state(path)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        words = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        digest.update(np.asarray(words).tobytes())
    draws = np.load(path / "samples" / "final.npz")
    for name in sorted(draws.files):
        digest.update(draws[name].tobytes())
    return step, digest.hexdigest(), (path / "metrics.jsonl").read_bytes()


def interrupted(path, configuration, at):
    """Trains until the call after step `at`, and stops there as kill -9 would: nothing is saved on the way."""

    class Killed(BaseException):
        pass

    advance = runner.Run._advance

    def fatal(self, bar, writer):
        if self.step >= at:
            raise Killed
        advance(self, bar, writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.Run, "_advance", fatal)
        with pytest.raises(Killed):
            runner.train(configuration, path, ["test"])
