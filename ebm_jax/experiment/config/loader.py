"""YAML that may come from anyone: every problem is one line with its place, and no text takes long to read."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from ebm_jax.experiment.config.problems import shown
from ebm_jax.experiment.files import printable

# Far more than any configuration has. The size of a file is in bytes.
LARGEST_FILE = 2**18
LARGEST_VALUES = 10_000
LARGEST_DEPTH = 50
LARGEST_NUMBER = 2**256

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


def parse(text: str) -> tuple[Any, list[str]]:
    """Parses YAML.

    Args:
      text: The text.

    Returns:
      `(value, problems)`: the value, which is None where it cannot be read, and what is wrong, a line each.
    """
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.repeated
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return None, [printable(f"{where}not YAML: {what}")]
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        return None, [f"line {line}: not YAML: the character {error.character!r} may not stand there"]
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with limits, that also records repeated keys, of which PyYAML keeps the last silently."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []
        self._depth = 0
        self._n_values: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._n_values:
                raise _error(f"*{event.anchor} stands inside the value that it repeats", event)
            return node
        if self._depth == LARGEST_DEPTH:
            raise _error(f"more than {LARGEST_DEPTH} levels are nested", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        # An alias repeats a whole value, so a few lines of aliases of aliases can stand for billions of values.
        if isinstance(node, yaml.MappingNode):
            inner = [item for pair in node.value for item in pair]
        else:
            inner = node.value if isinstance(node, yaml.SequenceNode) else []
        n_values = 1 + sum(self._n_values[id(item)] for item in inner)
        if n_values > LARGEST_VALUES:
            raise _error(f"with its aliases written out, it has more than {LARGEST_VALUES:,} values", node)
        self._n_values[id(node)] = n_values
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        # PyYAML's conversions of single values let these through.
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            given = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            raise _error(f"{given} is no {kind} ({error})", node) from error
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise _error(f"{shown(value)} holds half a character (a surrogate)", node)
        if isinstance(node, yaml.ScalarNode) and node.tag in (_INT, _FLOAT):
            self._check_number(node, value)
        return value

    def _check_number(self, node: Any, value: Any) -> None:
        if type(value) is int and abs(value) > LARGEST_NUMBER:
            raise _error("the number is too long", node)
        digits = node.value.lstrip("+-")
        if ":" in digits:
            reading = f"{value} in YAML 1.1, which counts in sixties"
        elif node.tag == _INT and digits.startswith("0") and digits.strip("0_").isdigit():
            reading = f"{value} in YAML 1.1, which reads it as octal"
        else:
            return
        raise _error(f"{node.value} means {reading}: write {value}, or put it in quotes if it is text", node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                name = printable(key.value)
                self.repeated.append(
                    f"line {line}: the key {name} stands twice, first on line {first[key.value]}"
                )
            first.setdefault(key.value, line)
        return super().construct_mapping(node, deep)


def _error(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
