"""Errors of a configuration in words, what each field takes, and the table of a whole schema."""

from __future__ import annotations

import datetime
import difflib
import reprlib
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ebm_jax.experiment.files import printable

# Writes the first of many items alone, whatever a value holds.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxother = 4, 20, 20, 200, 200


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
      source: Name of the file, or what stands for it.
      problems: Everything that is wrong, a line each.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__(source, tuple(problems))
        self.source, self.problems = source, tuple(problems)

    def __str__(self) -> str:
        return "\n".join([f"{self.source}:", *(f"  {problem}" for problem in self.problems)])


def describe(error: ValidationError, schema: type[BaseModel], overridden: set[str]) -> list[str]:
    """Describes the problems that pydantic found.

    Args:
      error: What pydantic raised.
      schema: The class that was validated.
      overridden: Dotted paths of values that came from overrides.

    Returns:
      A line for each problem: its path, what was given, what is wanted, and what may have been meant.
    """
    lines = []
    for problem in error.errors():
        loc = (*problem["loc"], *problem.get("ctx", {}).get("below", ()))
        path = printable(".".join(str(part) for part in loc))
        source = " by an override" if path in overridden else ""
        given = f"{path}: {shown(problem['input'])} was given{source}"
        field = _field(schema, loc)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{given}; {no_such_key(schema, loc)}")
        elif problem["type"] == "invalid_key":
            lines.append(f"{path}: keys are text: put this one in quotes, or correct it")
        elif problem["type"] == "missing":
            lines.append(f"{path}: nothing was given; {wanted(field)} is wanted")
        elif problem["type"] == "conflict":
            lines.append(f"{path}: {problem['msg']}")
        else:
            if problem["type"] == "string_type":
                hint = ": put it in quotes"
            else:
                hint = closest(problem["input"], choices(field))
            lines.append(f"{given}; {wanted(field)} is wanted{hint}")
    return lines


def no_such_key(schema: type[BaseModel], loc: Sequence[Any]) -> str:
    """Says that the last part of `loc` is not a key, and which key may have been meant."""
    section = _section(schema, loc[:-1]) or schema
    hint = closest(loc[-1], section.model_fields)
    if not hint:
        elsewhere = [path for path, _ in leaves(schema) if path.rpartition(".")[2] == loc[-1]]
        hint = f": did you mean {' or '.join(elsewhere)}?" if elsewhere else ""
    keys = ", ".join(section.model_fields)
    return "there is no such key" + (hint or f"; the keys here are {keys}")


def obstacle(schema: type[BaseModel], loc: Sequence[str]) -> str | None:
    """Returns why no single value can be set at `loc`, or None if one can."""
    for depth in range(1, len(loc) + 1):
        field = _field(schema, loc[:depth])
        if field is None:
            return no_such_key(schema, loc[:depth])
        inner = _section(schema, loc[:depth])
        if inner is None and depth < len(loc):
            return f"{'.'.join(loc[:depth])} is a single value and has no keys"
        if inner is not None and depth == len(loc):
            return f"{'.'.join(loc)} is a section: name one of its keys, {', '.join(inner.model_fields)}"
    return None


def closest(given: Any, names: Iterable[str]) -> str:
    """Returns `: did you mean NAME?`, or an empty string if no name is similar."""
    text = given if isinstance(given, str) else shown(given)
    similar = difflib.get_close_matches(text[:60].lower(), list(names), n=1)
    return f": did you mean {similar[0]}?" if similar else ""


def shown(value: Any) -> str:
    """Returns a value as YAML writes it, cut if it is long."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    text = _REPR.repr(value)
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 60 else text[:57] + "…"


def wanted(field: FieldInfo | None) -> str:
    """Returns what values a field takes, in words: type, bounds, choices."""
    if field is None:
        return "another value"
    kinds = _kinds(field.annotation)
    names = choices(field)
    takes_list = any(typing.get_origin(kind) is list for kind in kinds)
    if names:
        text = f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    elif any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        text = "a section (keys with values)"
    elif bool in kinds:
        text = "true or false"
    elif float in kinds or int in kinds:
        text = ("a finite number" if float in kinds else "a whole number") + _bounds(field)
        text += " or a list of them" if takes_list else ""
    elif takes_list:
        text = "a list of whole numbers"
    else:
        text = "text"
    return f"{text}, or null" if type(None) in kinds else text


def choices(field: FieldInfo | None) -> list[str]:
    """Returns the values of a field that takes one of a few."""
    kinds = () if field is None else _kinds(field.annotation)
    return [
        name for kind in kinds if typing.get_origin(kind) is typing.Literal for name in typing.get_args(kind)
    ]


def leaves(schema: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields the dotted path and the field of every single value of a schema, in order."""
    for name, field in schema.model_fields.items():
        inner = _section(schema, (name,))
        if inner is None:
            yield above + name, field
        else:
            yield from leaves(inner, f"{above}{name}.")


def schema_table(schema: type[BaseModel]) -> str:
    """Returns the schema as a Markdown table: path, default, values, meaning."""
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for path, field in leaves(schema):
        default = "the file's name" if field.is_required() else f"`{shown(field.default).strip(chr(39))}`"
        lines.append(f"| `{path}` | {default} | {wanted(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return typing.get_args(annotation) if type(None) in typing.get_args(annotation) else (annotation,)


def _bounds(field: FieldInfo) -> str:
    limits = {
        type(m): getattr(m, type(m).__name__.lower())
        for m in field.metadata
        if isinstance(m, Ge | Gt | Le | Lt)
    }
    if {Ge, Le} <= limits.keys():
        return f" from {limits[Ge]} to {limits[Le]}"
    words = {Ge: "of at least", Gt: "above", Le: "at most", Lt: "below"}
    return "".join(f"{' and' if i else ''} {words[kind]} {limits[kind]}" for i, kind in enumerate(limits))


def _section(schema: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    """Returns the section at `loc`; None if there is a single value, or nothing."""
    for part in loc:
        field = schema.model_fields.get(part)
        kind = None if field is None else field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        schema = kind
    return schema


def _field(schema: type[BaseModel], loc: Sequence[Any]) -> FieldInfo | None:
    section = _section(schema, loc[:-1])
    return None if section is None else section.model_fields.get(loc[-1])
