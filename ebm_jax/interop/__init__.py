"""Bridges to other libraries, each loaded on first use: `ebm_jax.interop.thrml`, `blackjax` and `arviz`.

Importing this package imports none of those libraries. A bridge whose library is missing says how to install it.

Example:
  >>> dir(ej.interop)
  ['arviz', 'blackjax', 'thrml']
"""

import importlib
from typing import Any

__all__ = ["arviz", "blackjax", "thrml"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
