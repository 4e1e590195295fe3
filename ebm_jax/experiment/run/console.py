"""Messages of runs: to the log of a run, and to the console beside progress bars."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ebm_jax.experiment.files import printable

LOGGER = logging.getLogger("ebm_jax.experiment")


class Formatter(logging.Formatter):
    """Escapes control characters, since messages quote what folders hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a message."""
        return printable(super().format(record), newlines=True)


@contextmanager
def console() -> Iterator[None]:
    """Sends the log to the console as well, without breaking progress bars."""
    handler = _Console()
    handler.setFormatter(Formatter("%(message)s"))
    handler.setLevel(logging.INFO)
    # Messages of level DEBUG go to the file alone.
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
