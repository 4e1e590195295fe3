"""Metrics of a call of updates: their summary, and the first update that failed."""

from __future__ import annotations

import numpy as np

from ebm_jax.experiment.config.sections import HealthConfig
from ebm_jax.training.step import Metrics


def summarize(metrics: Metrics) -> dict[str, float | int]:
    """Returns means over the updates of a call, and sums of counts, which are whole numbers."""
    out: dict[str, float | int] = {}
    for name, values in metrics.figures().items():
        values = np.asarray(values)
        count = np.issubdtype(values.dtype, np.integer)
        out[name] = int(values.sum()) if count else float(np.mean(values, dtype=np.float64))
    return out


def first_failure(metrics: Metrics, health: HealthConfig, before: int = 0) -> tuple[int, str] | None:
    """Finds the first failed update of a call.

    Args:
      metrics: Metrics of the call.
      health: The limits.
      before: Updates before the call.

    Returns:
      The number of the update in the call, from 0, and the reason; None if no update failed.
    """
    found: list[tuple[int, str]] = []
    bad = np.flatnonzero(np.asarray(metrics.n_nonfinite) > 0)
    if len(bad):
        i = int(bad[0])
        found.append((i, f"{int(metrics.n_nonfinite[i])} values are NaN or infinite"))
    norm = np.asarray(metrics.gradient_norm)
    overflowed = np.flatnonzero(~np.isfinite(norm))
    if len(overflowed):
        i = int(overflowed[0])
        found.append((i, f"gradient_norm is {float(norm[i])}"))
    late = before + np.arange(len(norm)) >= health.grace_steps
    unknown = np.full(norm.shape, np.nan)
    # NaN exceeds no limit: nothing reports the figure, or its NaN was counted above.
    for name, values, least, greatest in (
        ("gradient_norm", norm, None, health.max_gradient_norm),
        ("energy_gap", np.abs(metrics.energy_gap), None, health.max_energy_gap),
        ("position", metrics.extra.get("position_max", unknown), None, health.max_position),
        ("movement", metrics.extra.get("movement", unknown), health.min_movement, None),
        ("acceptance", metrics.acceptance, health.min_acceptance, None),
    ):
        key, limit, sign = ("max", greatest, 1) if least is None else ("min", least, -1)
        if limit is None:
            continue
        values = np.asarray(values)
        over = np.flatnonzero(late & (sign * values > sign * limit))
        if len(over):
            i = int(over[0])
            where = "over" if key == "max" else "under"
            found.append((i, f"{name} is {float(values[i]):.4g}, {where} health.{key}_{name}={limit:g}"))
    return min(found) if found else None
