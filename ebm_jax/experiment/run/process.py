"""What a run has to do with its process: signals, and TensorBoard's events."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebm_jax.experiment import files


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of ending the process; a second SIGINT interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    # Only the main thread may set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def event_writer(path: Path, step: int) -> Iterator[Any]:
    """Yields a writer of TensorBoard's events, or None without the extra. It drops events after `step`."""
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError:
        yield None
        return
    # The writer names its files by the time, and makes new ones alone.
    files.make_folder(path, "tensorboard")
    writer = SummaryWriter(str(path / "tensorboard"), purge_step=step + 1)
    try:
        yield writer
    finally:
        writer.close()
