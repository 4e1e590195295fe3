"""Bridges to other libraries and formats, each loaded on first use.

`thrml`, `blackjax`, `arviz`, `networkx` and `dimod` are named after the libraries. `qubo` converts quadratic problems
of 0 and 1, and `files` reads graphs and such problems. Importing this package imports none of those libraries. A bridge
whose library is missing says how to install it.

Example:
  >>> dir(ej.interop)
  ['arviz', 'blackjax', 'dimod', 'files', 'networkx', 'qubo', 'thrml']
"""

import importlib
from typing import Any

__all__ = ["arviz", "blackjax", "dimod", "files", "networkx", "qubo", "thrml"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
