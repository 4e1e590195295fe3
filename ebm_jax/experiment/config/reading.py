"""YAML files and overrides of experiments, read into plain values: what is wrong is told with its line."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which notes keys that stand twice; by itself it would keep the last in silence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                self.repeated.append(
                    f"line {line}: the key {key.value} stands twice, first on line {first[key.value]}"
                )
            first.setdefault(key.value, line)
        return super().construct_mapping(node, deep)


def read_file(path: Path) -> tuple[dict[Any, Any] | None, list[str]]:
    """Reads a YAML file whose top level is a mapping; returns it, or None, and what is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.y*ml")], n=1)
        hint = f": did you mean {path.with_name(near[0])}?" if near else ""
        return None, [f"there is no such file{hint}"]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return None, [
            f"line {line}: byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ]
    except OSError as error:
        return None, [f"it cannot be read ({error.strerror or error})"]
    value, problems = _parse(text)
    if problems and value is None:
        return None, problems
    if value is None:
        return None, ["it is empty; give at least `recipe: rbm`"]
    if not isinstance(value, dict):
        return None, [*problems, f"its top level is {_kind(value)}; give keys with values, such as `seed: 0`"]
    return value, problems


def read_override(text: str) -> tuple[tuple[str, ...], Any, str | None]:
    """Splits `training.learning_rate=0.01` into its path and its value, which is YAML, and says what is wrong."""
    path, separator, value = text.partition("=")
    parts = tuple(path.strip().split("."))
    if not separator or not all(parts):
        return (), None, f"override {text!r}: give KEY=VALUE, such as training.learning_rate=0.01"
    parsed, problems = _parse(value)
    if problems:
        return (), None, f"override {text!r}: its value is not YAML ({problems[0]})"
    return parts, parsed, None


def _parse(text: str) -> tuple[Any, list[str]]:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.repeated
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return None, [f"{where}not YAML: {what}"]
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        return None, [f"line {line}: not YAML: the character {error.character!r} may not stand there"]
    except (ValueError, RecursionError) as error:  # a date that is none, a number too long, brackets too deep
        return None, [f"not YAML that can be read: {error}"]
    finally:
        if loader is not None:
            loader.dispose()


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return f"the single value {value!r}" if len(repr(value)) < 60 else "a single value"
