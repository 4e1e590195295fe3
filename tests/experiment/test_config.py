"""Configurations: what is accepted, and that what is written reads back the same."""

import re
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
import yaml

from ebm_jax.experiment.config import config_hash, dump_config, load_config, parse_config
from ebm_jax.experiment.config.problems import leaves, schema_table, wanted
from ebm_jax.experiment.recipes.base import find, metrics_table, names
from ebm_jax.experiment.recipes.rbm.config import DataConfig, RBMConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "configs").glob("*"))


# What is accepted


def test_defaults_and_name_from_the_file(write):
    config = load_config(write("recipe: rbm\n", "first.try.yaml"))
    assert isinstance(config, RBMConfig)
    assert (config.name, config.seed, config.data.name, config.data.binarization) == (
        *("first.try", 0, "mnist", "stochastic"),
    )
    assert (config.model.n_hidden, config.negatives.method, config.training.schedule) == (
        500,
        "pcd",
        "linear",
    )
    assert config.negatives.n_chains is None and config.checkpoints.keep == 2 and config.evaluation.exact


def test_a_name_in_the_file_wins(write):
    assert load_config(write("name: mine")).name == "mine"
    assert parse_config({}, name="given").name == "given"
    assert parse_config({"name": "mine"}, name="given").name == "mine"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("+2E3", 2000.0),
        ("0.5", 0.5),
        (".5e-1", 0.05),
        ("'1e-3'", 1e-3),
    ],
)
def test_numbers_that_a_float_may_be(write, text, value):
    rate = load_config(write(f"training: {{learning_rate: {text}}}")).training.learning_rate
    assert rate == value and type(rate) is float


def test_an_exponent_is_read_for_a_float_that_may_be_null():
    assert parse_config({"health": {"max_energy_gap": "1e2"}}, name="x").health.max_energy_gap == 100.0


@pytest.mark.parametrize(
    ("name", "given", "resolved"),
    [
        ("mnist", None, "stochastic"),
        ("mnist", "static", "static"),
        ("binarized_mnist", None, "threshold"),
        ("binarized_mnist", "threshold", "threshold"),
    ],
)
def test_binarization_is_resolved(name, given, resolved):
    assert (
        parse_config({"data": {"name": name, "binarization": given}}, name="x").data.binarization == resolved
    )


def test_a_configuration_is_frozen_and_hashable():
    config = parse_config({}, name="x")
    with pytest.raises(pydantic.ValidationError):
        config.training.learning_rate = 1.0
    assert len({config, parse_config({}, name="x")}) == 1


def test_the_mapping_is_left_alone(write):
    mapping = {"data": {"name": "digits"}}
    parse_config(mapping, name="x")
    assert mapping == {"data": {"name": "digits"}}


# Overrides


def test_overrides_are_yaml_and_the_last_wins(write):
    path = write("training: {n_epochs: 3}\n")
    overrides = ["training.n_epochs=4", "training.n_epochs=5", "training.ema_decay=null", "data.name=digits"]
    config = load_config(
        path, [*overrides, "training.learning_rate=1e-2", "name=a=b", "evaluation.exact=false"]
    )
    assert (config.training.n_epochs, config.training.ema_decay, config.data.name) == (5, None, "digits")
    assert (config.training.learning_rate, config.name, config.evaluation.exact) == (0.01, "a=b", False)


# Writing and hashing


def everything_else():
    """A configuration that differs from the defaults in every field but the recipe."""
    other = {"data": {"name": "digits", "binarization": "static", "n_train": 500, "n_test": 7}}
    for path, field in leaves(RBMConfig):
        section, _, key = path.rpartition(".")
        if section in ("", "data"):
            continue
        default = field.default
        if isinstance(default, bool):
            value = not default
        elif isinstance(default, int):
            value = default + 2
        elif isinstance(default, float):
            value = default / 3 if default else 1e-7
        else:
            value = {"visible_bias": "zero", "method": "pcd", "gradient": "centred", "optimizer": "sgd"}.get(
                key
            )
            value = value or {"schedule": "cosine", "policy": "skip", "n_chains": 9}.get(key, 1 / 7)
        other.setdefault(section, {})[key] = value
    return {**other, "name": "12", "seed": 2**32 - 1}


@pytest.mark.parametrize("mapping", [{"name": "x"}, everything_else()], ids=["defaults", "all other"])
def test_a_dump_reads_back_the_same(write, mapping):
    config = parse_config(mapping)
    text = dump_config(config)
    again = load_config(write(text, "other.yaml"))
    assert again == config and dump_config(again) == text and config_hash(again) == config_hash(config)
    written = yaml.safe_load(text)
    assert list(written) == list(RBMConfig.model_fields)
    assert {key: list(value) for key, value in written.items() if isinstance(value, dict)} == {
        key: list(field.annotation.model_fields)
        for key, field in RBMConfig.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }


def test_the_hash_is_of_every_field_and_of_nothing_else():
    base = parse_config({"name": "x"})
    assert re.fullmatch("[0-9a-f]{64}", config_hash(base))
    same = parse_config({"recipe": "rbm", "training": {"learning_rate": 0.1, "n_epochs": 10}}, name="x")
    assert config_hash(same) == config_hash(base)
    # An int that stands for a float is that float.
    assert config_hash(parse_config({"name": "x", "checkpoints": {"every_epochs": 1}})) == config_hash(base)
    changed = [
        {"name": "y"},
        {"seed": 1},
        {"data": {"n_test": 5}},
        {"training": {"learning_rate": 0.1 + 2**-50}},
    ]
    assert (
        len({config_hash(parse_config({"name": "x", **change})) for change in changed} | {config_hash(base)})
        == 5
    )


# The schema and the files


@pytest.mark.parametrize("name", names())
def test_every_field_is_described_and_every_number_bounded(name):
    for path, field in leaves(find(name).Config):
        assert field.description, path
        if re.search(r"\b(int|float)\b", str(field.annotation)):
            assert field.metadata, f"{path} has no bounds"


def test_words_for_bounds():
    fields = dict(leaves(RBMConfig))
    assert wanted(fields["negatives.n_chains"]) == "a whole number of at least 1, or null"
    assert wanted(fields["training.centring_rate"]) == "a finite number above 0 and at most 1"


def test_data_sets_are_ones_that_the_package_loads():
    from ebm_jax.data.specs import SPECS

    names = DataConfig.model_fields["name"].annotation.__args__
    assert set(names) == {name for name, spec in SPECS.items() if len(spec.image_shape) == 2}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_of_the_repository_are_right(path):
    config = load_config(path)
    assert config.name == path.stem
    named = re.fullmatch(r"rbm_(?:mnist|digits)_(cd|pcd)(\d+)", config.name)
    if config.recipe == "rbm" and path.name != "rbm_mnist_best.yaml":
        assert (config.negatives.method, str(config.negatives.k)) == named.groups()
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_repository_has_files():
    assert len(FILES) >= 12 and all(path.suffix == ".yaml" for path in FILES)


@pytest.mark.parametrize("name", names())
def test_the_page_holds_what_the_code_says_of_each_recipe(name):
    recipe = find(name)
    assert schema_table(recipe.Config) in PAGE
    assert metrics_table(recipe) in PAGE


def test_configurations_need_no_jax():
    """Nor does the list of what a recipe measures, which commands show."""
    code = """
import sys
from ebm_jax.experiment.config import parse_config
from ebm_jax.experiment.recipes.base import find
assert parse_config({}, name="x").recipe == "rbm" and "likelihood" in find("rbm").groups
assert not {'jax', 'numpy', 'typer', 'matplotlib'} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
