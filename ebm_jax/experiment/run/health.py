"""Metrics of a call of updates: their summary, and the first update that failed."""

from __future__ import annotations

import numpy as np

from ebm_jax.experiment.config.sections import HealthConfig
from ebm_jax.training.step import Metrics


def summarize(metrics: Metrics) -> dict[str, float | int]:
    """Returns means over the updates of a call, and sums of counts, which are whole numbers."""
    every = metrics._asdict()
    every |= every.pop("extra")
    out: dict[str, float | int] = {}
    for name, values in every.items():
        values = np.asarray(values)
        count = np.issubdtype(values.dtype, np.integer)
        out[name] = int(values.sum()) if count else float(np.mean(values, dtype=np.float64))
    return out


def first_failure(metrics: Metrics, health: HealthConfig) -> tuple[int, str] | None:
    """Returns the first failed update of a call, counted from 0, and the reason; None if there is none."""
    found: list[tuple[int, str]] = []
    bad = np.flatnonzero(np.asarray(metrics.n_nonfinite) > 0)
    if len(bad):
        i = int(bad[0])
        found.append((i, f"{int(metrics.n_nonfinite[i])} values are NaN or infinite"))
    # An objective without energies has no gap, and NaN in its place. Energies that became NaN were counted above.
    gap = np.where(np.isnan(metrics.energy_data), 0, np.abs(metrics.energy_gap))
    for name, values, limit in (
        ("gradient_norm", np.asarray(metrics.gradient_norm), health.max_gradient_norm),
        ("energy_gap", gap, health.max_energy_gap),
    ):
        bound = np.inf if limit is None else limit
        over = np.flatnonzero(~np.isfinite(values) | (values > bound))
        if len(over):
            i = int(over[0])
            found.append((i, f"{name} is {float(values[i]):.4g}, over health.max_{name}={bound:g}"))
    return min(found) if found else None
