"""hamon, a fork of THRML: see `thrml_gibbs`."""

from benchmarks.methods import Method, thrml_gibbs
from benchmarks.tasks.gibbs import Task


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the program of `thrml_gibbs` with hamon."""
    return thrml_gibbs.prepare(task, device, "hamon")
