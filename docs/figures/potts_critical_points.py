"""Where the q-state Potts model on a square torus orders, against the exact K_c = ln(1 + √q).

E = −Σ δ(xᵢ, xⱼ) at inverse temperature K. Chains start ordered at the largest K and go on from each K to the next
smaller one; what the first and the second half of a measurement disagree by shows how far they are from equilibrium.
(Chains that start at noise above K_c get stuck in stripes.) Writes docs/images/potts_critical_points.png and prints the
numbers that docs/block_gibbs.md quotes.

    python docs/figures/potts_critical_points.py     # under three minutes on one core
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import ebm_jax as ej

IMAGE = Path(__file__).parents[1] / "images" / "potts_critical_points.png"
COLOURS = ("#8a8d91", "#c8553d", "#1f4e79")
EVERY = 20  # sweeps between two measurements


class Curves(NamedTuple):
    """Means over chains and time at each K. drift: the order parameter's first half less its second."""

    order: np.ndarray
    energy: np.ndarray
    heat: np.ndarray
    binder: np.ndarray
    drift: np.ndarray


def critical(q: int) -> float:
    """Returns K_c = ln(1 + √q) (Potts 1952)."""
    return float(np.log1p(np.sqrt(q)))


def measure(model: ej.Potts, q: int, size: int, ks: np.ndarray, n_chains: int, n_sweeps: int) -> Curves:
    """Samples the ascending `ks` from the last to the first: a fifth of the sweeps warms up, the rest is measured."""
    kernel = ej.gibbs(model)
    params = ej.PottsParams(jnp.zeros((size, size, q)), jnp.ones(2))
    state = jnp.zeros((n_chains, size, size), jnp.uint8)
    key = jax.random.key(100 * q + size)
    warm = n_sweeps // 5
    n_kept = (n_sweeps - warm) // EVERY
    observer = ej.Observer(
        init=lambda params, x: (jnp.zeros((n_kept, q)), jnp.zeros(n_kept), jnp.zeros((), jnp.int32)),
        update=_record,
        result=lambda carry: carry[:2],
    )
    schedule = ej.SamplingSchedule(warm + EVERY, n_kept, EVERY)
    rows = []
    for k in ks[::-1]:
        run = ej.sample(key, kernel, params, state, schedule, beta=k, observe=observer)
        state = run.state
        share, energy = (np.asarray(part, np.float64) for part in run.observed)  # (chains, kept, …)
        largest = (q * share.max(axis=-1) - 1) / (q - 1)
        m2 = (q * (share**2).sum(axis=-1) - 1) / (q - 1)
        rows.append(
            (
                largest.mean(),
                energy.mean() / size**2,
                k**2 * energy.var() / size**2,
                1 - (m2**2).mean() / (3 * m2.mean() ** 2),
                largest[:, : n_kept // 2].mean() - largest[:, n_kept // 2 :].mean(),
            )
        )
    return Curves(*(np.array(column[::-1]) for column in zip(*rows)))


def _record(carry, params, x):
    shares, energies, n = carry
    q = shares.shape[-1]
    share = jnp.stack([jnp.mean(x == level, dtype=jnp.float32) for level in range(q)])
    right, below = jnp.roll(x, -1, axis=1), jnp.roll(x, -1, axis=0)
    energy = -jnp.sum(x == right, dtype=jnp.float32) - jnp.sum(x == below, dtype=jnp.float32)
    return shares.at[n].set(share), energies.at[n].set(energy), n + 1


def peak(ks: np.ndarray, heat: np.ndarray) -> float:
    """Returns the top of a parabola through the highest point and its neighbours."""
    top = int(np.clip(heat.argmax(), 1, len(ks) - 2))
    a, b, _ = np.polyfit(ks[top - 1 : top + 2], heat[top - 1 : top + 2], 2)
    return float(-b / (2 * a))


def crossing(ks: np.ndarray, small: np.ndarray, large: np.ndarray, near: float) -> float:
    """Returns where the larger size's Binder cumulant overtakes the smaller's, the crossing nearest to `near`."""
    gap = large - small
    at = np.flatnonzero((gap[:-1] < 0) & (gap[1:] >= 0))
    where = ks[at] - gap[at] * (ks[at + 1] - ks[at]) / (gap[at + 1] - gap[at])
    return float(where[np.abs(where - near).argmin()]) if len(where) else float("nan")


def draw(curves: dict[tuple[int, int], Curves], grids: dict[int, np.ndarray], sizes: list[int]) -> Figure:
    """Returns the figure: a column each q; order parameter, specific heat and Binder cumulant."""
    kinds = (("order", "order parameter"), ("heat", "specific heat"), ("binder", "Binder cumulant"))
    style = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.6, 6.6), layout="constrained")
        axes = figure.subplots(3, len(grids), sharex="col")
        for column, (q, ks) in enumerate(grids.items()):
            for ax, (kind, name) in zip(axes[:, column], kinds):
                ax.axvline(critical(q), color="#222222", linewidth=0.9, linestyle=(0, (4, 3)))
                for size, colour in zip(sizes, COLOURS):
                    y = getattr(curves[q, size], kind)
                    ax.plot(ks, y, ".-", color=colour, markersize=4, linewidth=1.1, label=f"{size}×{size}")
                if kind != "heat":
                    ax.set_ylim(0, 1 if kind == "order" else 0.7)
                if column == 0:
                    ax.set_ylabel(name)
            axes[0, column].set_title(f"q = {q},  K$_c$ = {critical(q):.4f}")
            axes[-1, column].set_xlabel("K")
        axes[0, 0].legend(frameon=False, loc="upper left")
    return figure


def main() -> None:
    """Measures, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=5000, help="at each K")
    parser.add_argument("--out", type=Path, default=IMAGE)
    args = parser.parse_args()
    ratios = 1 + np.array([-10, -6, -4, -2.5, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2.5, 4, 6, 10]) / 100
    grids = {q: critical(q) * ratios for q in (2, 3, 4)}
    curves, start = {}, time.perf_counter()
    for q, ks in grids.items():
        for size in args.sizes:
            model = ej.Potts(ej.Grid(size, size, boundary="periodic"), q)
            curves[q, size] = measure(model, q, size, ks, args.chains, args.sweeps)
    print(
        f"{'q':>2} {'K_c':>7} {'size':>5} {'peak at':>8} {'off by':>7} {'E/N at K_c':>11} {'N = ∞':>8}  drift"
    )
    for (q, size), found in curves.items():
        ks, k_c, middle = grids[q], critical(q), len(ratios) // 2
        at = peak(ks, found.heat)
        print(
            f"{q:>2} {k_c:7.4f} {size:>5} {at:8.4f} {100 * (at / k_c - 1):+6.2f}% {found.energy[middle]:11.4f} "
            f"{-1 - 1 / np.sqrt(q):8.4f}  {np.abs(found.drift).max():.3f} at K/K_c = "
            f"{ratios[np.abs(found.drift).argmax()]:.3f}"
        )
    for q, ks in grids.items():
        for small, large in zip(args.sizes[:-1], args.sizes[1:]):
            at = crossing(ks, curves[q, small].binder, curves[q, large].binder, critical(q))
            print(f"q = {q}: Binder cumulants of {small} and {large} cross at {at:.4f}", end="")
            print(f", {100 * (at / critical(q) - 1):+.2f}% from K_c")
    draw(curves, grids, args.sizes).savefig(args.out, dpi=110, metadata={"Software": None})
    print(f"{time.perf_counter() - start:.0f} s; wrote {args.out}")


if __name__ == "__main__":
    main()
