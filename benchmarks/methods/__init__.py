"""Who is measured: each file holds one package, in the fastest form that its documentation gives.

A file has `prepare(task, device) -> Method`. It raises `Absent` where the package cannot run on that device.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

BUILDS = 5
BUILD_SECONDS = 10.0


class Absent(Exception):
    """Says why a peer does not take part."""


class Method(NamedTuple):
    """A prepared method: `call()` runs the task's sweeps and returns the final states, or waits for them itself.

    build: seconds until there is something to compile, of a system of a size that this process has not seen, as one
    builds it. rebuild: the same, of one like it again. compiling: seconds of compiling. beyond: bytes beyond the state
    for each site and chain, where known. path: which of several updates runs, where there are several.
    """

    build: float
    rebuild: float
    compiling: float
    call: Callable[[], Any]
    beyond: float | None = None
    path: str | None = None


def median(values: Iterable[float]) -> float:
    """The middle one, or the mean of the middle two."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def timed_builds(build: Callable[[Any], Any], task: Any) -> tuple[Any, float, float]:
    """Returns what `build(task)` makes, the seconds of the first build, and the median of the others.

    A small system is built before, so that the first is not the package's first of all. Five builds in all, or as many
    as fit into ten seconds.
    """
    build(task.small())
    seconds: list[float] = []
    while len(seconds) < BUILDS and sum(seconds) < BUILD_SECONDS:
        start = time.perf_counter()
        made = build(task)
        seconds.append(time.perf_counter() - start)
    return made, seconds[0], median(seconds[1:] or seconds)
