"""Public docstrings have the sections that readers look for, and their examples run."""

import ast
import doctest
import inspect
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej

PUBLIC = {
    name: getattr(ej, name)
    for name in ej.__all__
    if not name.startswith("__") and not inspect.ismodule(getattr(ej, name))
}
NAMESPACE = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "ej": ej}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

HEADER = re.compile(r"^([A-Z][A-Za-z ]*):$")
ENTRY = re.compile(r"^\*{0,2}(\w+)(?: \([^)]*\))?:(?: |$)")


def sections(docstring):
    """Splits a cleaned docstring into {title: lines}; the text before the first title has the title ""."""
    found, title = {"": []}, ""
    for line in docstring.splitlines():
        header = HEADER.match(line)
        if header:
            title = header.group(1)
        found.setdefault(title, [])
        if not header:
            found[title].append(line)
    return found


def entries(lines):
    """Names that a section explains: `name: text` at its smallest indentation."""
    text = textwrap.dedent("\n".join(lines))
    return [match.group(1) for line in text.splitlines() if (match := ENTRY.match(line))]


def raises_something(function):
    """Whether the function's own body raises, or calls one of the checks, which do."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called.startswith("check_"):
                return True
    return False


def returns_something(function):
    return inspect.signature(function).return_annotation not in (None, "None", inspect.Signature.empty)


def complaints(value):
    """Says what the docstring of a public function or class lacks, one complaint an item."""
    docstring = inspect.cleandoc(value.__doc__ or "")
    if not docstring:
        return ["no docstring"]
    found = sections(docstring)
    wrong = []
    summary = docstring.split("\n\n")[0]
    if "\n" in summary or not summary.endswith(".") or re.search(r"[.!?] [A-Z]", summary):
        wrong.append("the summary is not one sentence on one line")
    if not re.search(r"^\s*>>> ", "\n".join(found.get("Example", [])), re.MULTILINE):
        wrong.append("no Example: with >>>")
    if isinstance(value, type):
        return wrong
    function = inspect.unwrap(value)
    parameters = list(inspect.signature(function).parameters)
    named = entries(found.get("Args", []))
    wrong += [f"Args: lacks {name}" for name in parameters if name not in named]
    wrong += [f"Args: names {name}, which is no parameter" for name in named if name not in parameters]
    if returns_something(function) and not {"Returns", "Yields"} & found.keys():
        wrong.append("no Returns:")
    told = re.search(r"\b[Rr]aises?\b", "\n".join(found[""]))
    if "Raises" not in found and (told or raises_something(function)):
        wrong.append("no Raises:")
    if "Raises" in found and not entries(found["Raises"]):
        wrong.append("Raises: names no exception")
    return wrong


def failures(docstring, name="example", namespace=NAMESPACE):
    """Runs the examples of a docstring and returns doctest's report, empty where all of them pass."""
    test = doctest.DocTestParser().get_doctest(docstring, dict(namespace), name, None, 0)
    report = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=report.append)
    return "".join(report)


def test_every_public_docstring_is_complete():
    wrong = [f"ej.{name}: {'; '.join(said)}" for name, value in PUBLIC.items() if (said := complaints(value))]
    assert not wrong, f"{len(wrong)} of {len(PUBLIC)} docstrings are incomplete:\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if ">>> " in (value.__doc__ or "")])
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch, quick_compilation):
    monkeypatch.chdir(tmp_path)
    report = failures(inspect.cleandoc(PUBLIC[name].__doc__), f"ej.{name}")
    assert not report, report


def scaled(x, factor=2.0, *rest) -> float:
    """Multiplies a number.

    More words: the product of all arguments.

    Args:
      x: A number.
      factor: Another one,
        explained at length.
      *rest: Further ones: any number.

    Returns:
      The product.

    Raises:
      ValueError: If a number is not finite.

    Example:
      >>> 2 * 3
      6
    """
    raise ValueError


class Named:
    """Holds a name.

    Example:
      >>> jnp.zeros(3).shape
      (3,)
    """


def test_good_docstrings_pass_the_checker():
    assert not complaints(scaled)
    assert not complaints(Named)
    assert not failures(inspect.cleandoc(scaled.__doc__)) and not failures(inspect.cleandoc(Named.__doc__))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Multiplies a number.", "Multiplies a number", "the summary is not one sentence on one line"),
        ("Multiplies a number.", "Multiplies. A number.", "the summary is not one sentence on one line"),
        ("Multiplies a number.", "Multiplies a\nnumber.", "the summary is not one sentence on one line"),
        ("  factor: Another one,\n    explained at length.\n", "", "Args: lacks factor"),
        ("*rest: Further", "others: Further", "Args: lacks rest"),
        ("*rest: Further", "others: Further", "Args: names others, which is no parameter"),
        ("Returns:\n  The product.", "", "no Returns:"),
        ("Raises:\n  ValueError: If a number is not finite.", "", "no Raises:"),
        ("ValueError: If", "Whenever", "Raises: names no exception"),
        ("Example:", "Examples:", "no Example: with >>>"),
        (">>> 2 * 3", "2 * 3", "no Example: with >>>"),
    ],
)
def test_each_gap_is_found(old, new, said, monkeypatch):
    # Python 3.13 strips the indentation of docstrings, earlier versions keep it.
    text = inspect.cleandoc(scaled.__doc__)
    assert old in text
    monkeypatch.setattr(scaled, "__doc__", text.replace(old, new))
    assert said in complaints(scaled)


def test_a_missing_docstring_and_words_about_raising_are_found(monkeypatch):
    monkeypatch.setattr(Named, "__doc__", None)
    assert complaints(Named) == ["no docstring"]

    def quiet():
        """Does nothing, but raises ValueError at times.

        Example:
          >>> 1
          1
        """

    assert complaints(quiet) == ["no Raises:"]


@pytest.mark.parametrize("example", [">>> 1 + 1\n3", ">>> 1 / 0\n0", ">>> unknown_name"])
def test_wrong_examples_fail(example):
    assert failures(example)
