"""What every test runs under: the CPU, checked annotations, one cache of compiled programs, repeatable hypothesis.

The import hook wraps every function and dataclass of the package as it is imported, submodules that load later too, so
that jaxtyping's shapes are checked at every call, traced ones included. It has to come before the first import of the
package. A checked call costs tens of microseconds, in eager code and while tracing; compiled code pays nothing.
"""

import gc
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Half of the suite's time is compilation. Workers of pytest-xdist and processes that tests start inherit the
# environment, so each program is compiled once in a run. The cache is on disk: jitted functions still trace and count
# their programs in memory (`_cache_size`) as they do without it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="ebm_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
# Classifiers that judge samples are trained once in a run, and never kept in the user's cache.
if "EBM_JAX_CACHE_DIR" not in os.environ:
    _kept = tempfile.TemporaryDirectory(prefix="ebm_jax_cache_")
    os.environ["EBM_JAX_CACHE_DIR"] = _kept.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
# jaxlib 0.10 compiles these small programs a third faster with XLA's older code for fused loops. Later versions have
# the newer code alone, and end the process at a flag that they do not know. `XLA_FLAGS= make test` compiles as users'
# programs are compiled.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import hypothesis
import jax
import jaxtyping
import pytest

if any(name == "ebm_jax" or name.startswith("ebm_jax.") for name in sys.modules):
    raise RuntimeError(
        "ebm_jax was imported before tests/conftest.py could hook it, so annotations go unchecked"
    )
jaxtyping.install_import_hook("ebm_jax", "beartype.beartype")

hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="module", autouse=True)
def _few_memory_maps():
    """Drops compiled programs between modules once there are many.

    XLA maps several regions of memory for each program. Linux allows a process 65,530, and a process that asks for more
    is killed by a segmentation fault wherever it happens to be.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles without most optimizations, for short programs that take longer to compile than to run.

    The programs are dropped at the end. Other tests compare bits, and one program rounds as another only if both were
    optimized alike.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture(scope="session")
def digits_classifier():
    """The classifier that judges samples of digits. The command trains it once for all workers."""
    from typer.testing import CliRunner

    from ebm_jax.cli.main import app
    from ebm_jax.metrics import classifier

    if classifier.path_of("digits").exists():
        return classifier.load("digits")
    result = CliRunner().invoke(app, ["classifier", "digits"])
    assert result.exit_code == 0, result.output
    found = classifier.load("digits")
    assert found.sha256 in result.output and f"{found.accuracy:.2%}" in result.output
    return found


@pytest.fixture
def as_shipped():
    """Turns annotation checks off for a test of bad input: users have none, and must get the package's own words."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def count_traces():
    """Returns `counted(fn) -> (fn, traces)`, where `traces` grows by one whenever the body of `fn` runs."""

    def counted(fn):
        traces = []

        def wrapper(*args, **kwargs):
            traces.append(fn)
            return fn(*args, **kwargs)

        return wrapper, traces

    return counted
