"""Figures of samples, energies and training, each returned as a matplotlib `Figure`.

Nothing here uses pyplot: no window opens, no figure stays open, and matplotlib's settings do not change. A notebook
shows a returned figure; `figure.savefig("name.png")` writes it.

Images are arrays `(n, height, width)`, or `(n, height, width, 3)` for colour, of one of three kinds: bool; floating
point in [0, 1]; or integers, which are grey values 0 … 255 as `data.load` gives them, or levels 0 … K − 1 if
`n_levels=K` is given. Zero is white and one is black unless `cmap` says otherwise. Anything else raises ValueError.

Example:
  >>> figure = ej.plots.image_grid(np.eye(8)[None].repeat(4, axis=0), n_columns=2)
  >>> len(figure.axes)
  1
"""

from ebm_jax.plots.curves import energy_histogram, lines, training_curves
from ebm_jax.plots.images import animate, chain_strip, compare, image_grid, rbm_filters
from ebm_jax.plots.style import COLOURS

__all__ = [
    "COLOURS",
    "animate",
    "chain_strip",
    "compare",
    "energy_histogram",
    "image_grid",
    "lines",
    "rbm_filters",
    "training_curves",
]
