"""hamon: see `thrml_gibbs`, of which it is a fork."""

from benchmarks.methods import Method, thrml_gibbs
from benchmarks.tasks.gibbs import Task


def prepare(task: Task, device: str = "cpu") -> Method:
    """The same program, from hamon."""
    return thrml_gibbs.prepare(task, device, "hamon")
