"""The measured packages: each file holds one, in the fastest form that its documentation describes.

A file defines `prepare(task, device) -> Method`. It raises `Absent` if the package cannot run on that device.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

BUILDS = 5
BUILD_SECONDS = 10.0


class Absent(Exception):
    """The reason why a peer does not take part."""


class Method(NamedTuple):
    """A prepared method.

    Attributes:
      build: Seconds until there is something to compile, for a system of a size that is new to this process.
      rebuild: The same for a second system of this size.
      compiling: Seconds of compilation.
      call: Runs the task's sweeps and returns the final states, or waits for them itself.
      beyond: Bytes beyond the state per site and chain, or None if unknown.
      path: Which of several updates runs, or None if there is only one.
    """

    build: float
    rebuild: float
    compiling: float
    call: Callable[[], Any]
    beyond: float | None = None
    path: str | None = None


def median(values: Iterable[float]) -> float:
    """Returns the middle value, or the mean of the middle two."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def timed_builds(build: Callable[[Any], Any], task: Any) -> tuple[Any, float, float]:
    """Times five builds of a task, or as many as fit into ten seconds.

    A small system is built first, so that the first timed build is not the first build of the package.

    Returns:
      The result of `build(task)`, the seconds of the first build, and the median seconds of the others.
    """
    build(task.small())
    seconds: list[float] = []
    while len(seconds) < BUILDS and sum(seconds) < BUILD_SECONDS:
        start = time.perf_counter()
        made = build(task)
        seconds.append(time.perf_counter() - start)
    return made, seconds[0], median(seconds[1:] or seconds)
