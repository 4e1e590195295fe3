"""What a run depends on besides its configuration: versions, device, commit, data and precision."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ebm_jax import __version__
from ebm_jax.experiment.config import Config, config_hash

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment(config: Config, command: Sequence[str], data_digest: str | None = None) -> dict[str, Any]:
    """Returns what a run depends on besides its configuration."""
    import jax

    return {
        "config_hash": config_hash(config),
        "run_hash": run_hash(config),
        "command": shlex.join(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"ebm-jax": __version__} | {name: _version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "git_commit": _git_commit(),
        "x64": x64_enabled(),
        "data_sha256": data_digest,
    }


def x64_enabled() -> bool:
    """Whether JAX computes in 64 bits."""
    import jax

    return bool(jax.config.read("jax_enable_x64"))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Returns the commit of the package's checkout, with "-dirty" if files differ from it; None without a checkout."""
    home = Path(__file__).resolve().parent
    try:
        run = [
            subprocess.run(
                ["git", "-C", str(home), *rest], capture_output=True, text=True, timeout=10, check=True
            )
            for rest in (
                ["ls-files", "--error-unmatch", "environment.py"],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return run[1].stdout.strip() + ("-dirty" if run[2].stdout.strip() else "")


def run_hash(config: Config) -> str:
    """Returns the hash of what determines a run's bits: all of its configuration except the section `evaluation`."""
    return config_hash(config.model_copy(update={"evaluation": type(config.evaluation)()}))
