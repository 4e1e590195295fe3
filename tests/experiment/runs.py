"""What tests of runs share: runs that are interrupted, and what must be equal in equal runs."""

import hashlib

import jax
import numpy as np
import pytest

from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import stored_config


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

    advance = runner._Run._advance

    def fatal(self, bar, writer):
        if self.step >= at:
            raise Killed
        advance(self, bar, writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner._Run, "_advance", fatal)
        with pytest.raises(Killed):
            runner.train(configuration, path, ["test"])
