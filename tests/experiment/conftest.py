"""Fixtures of runs."""

import pytest

from ebm_jax.experiment import report
from ebm_jax.experiment.run import runner
from tests.experiment import runs


@pytest.fixture(scope="module")
def quick_runs():
    """Shares experiments, and leaves out figures and page, which take longest, unless a test asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.RBM, "build", runs.built, raising=False)
        patch.setattr(report, "write_run", lambda path, result: None)
        yield


@pytest.fixture
def with_report(monkeypatch):
    monkeypatch.setattr(report, "write_run", runs.write_run)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A whole run of the tiny configuration, with its report."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.RBM, "build", runs.built, raising=False)
        patch.setattr(report, "write_run", runs.write_run)
        runner.train(runs.config(), path, ["ebm-jax", "train", "tiny.yaml", "-o", "a b"])
    return path


@pytest.fixture
def write(tmp_path):
    """Writes a file of the given text, or bytes, and returns its path."""

    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
