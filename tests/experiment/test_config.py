"""Configurations: what is accepted, what each error says, and that what is written reads back the same."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
import yaml

from ebm_jax.experiment.config import ConfigError, config_hash, dump_config, load_config, parse_config
from ebm_jax.experiment.config.problems import leaves, schema_table, wanted
from ebm_jax.experiment.recipes.base import find, metrics_table, names
from ebm_jax.experiment.recipes.rbm.config import DataConfig, RBMConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "configs").glob("*"))


@pytest.fixture
def write(tmp_path):
    """Writes a file of the given text, or bytes, and returns its path."""

    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert str(caught.value).splitlines()[0] == f"{path}:"
    assert str(caught.value).splitlines()[1:] == [f"  {line}" for line in caught.value.problems]
    return list(caught.value.problems)


def only(path, *overrides):
    (problem,) = problems(path, *overrides)
    return problem


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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "training.lerning_rate=1",
            ["training.lerning_rate: 1", "by an override", "did you mean learning_rate?"],
        ),
        ("trainig.n_epochs=1", ["trainig.n_epochs: 1", "did you mean training?"]),
        ("n_epochs=1", ["n_epochs: 1", "did you mean training.n_epochs?"]),
        ("seed.x=1", ["seed.x: 1", "seed is a single value"]),
        ("training=1", ["training: 1", "is a section"]),
        ("training.n_epochs", ["'training.n_epochs'", "KEY=VALUE"]),
        ("=1", ["'=1'", "KEY=VALUE"]),
        ("training..n_epochs=1", ["KEY=VALUE"]),
        ("seed=[", ["'seed=['", "not YAML"]),
        ("seed=-1", ["seed: -1 was given by an override", "from 0 to 4294967295"]),
        ("recipe=rmb", ["recipe: 'rmb'", "did you mean rbm?"]),
    ],
)
def test_wrong_overrides(write, override, said):
    problem = only(write("seed: 1"), override)
    assert all(words in problem for words in said), problem


def test_an_override_does_not_hide_a_wrong_section(write):
    assert "training: 3 was given" in only(write("training: 3"), "training.n_epochs=2")


# Errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: '10'", ["seed: '10' was given", "a whole number from 0 to 4294967295"]),
        ("seed: 1.0", ["seed: 1.0", "whole number"]),
        ("seed: true", ["seed: true", "whole number"]),
        ("seed: 4294967296", ["seed: 4294967296"]),
        ("training: {learning_rate: '0.1'}", ["training.learning_rate: '0.1'", "a finite number above 0"]),
        ("training: {learning_rate: .inf}", ["training.learning_rate: inf", "finite"]),
        ("training: {learning_rate: 1e999}", ["training.learning_rate: inf"]),
        ("training: {learning_rate: .nan}", ["training.learning_rate: nan"]),
        ("training: {learning_rate: 0}", ["training.learning_rate: 0", "above 0"]),
        ("training: {ema_decay: 1}", ["training.ema_decay: 1", "above 0 and below 1, or null"]),
        ("training: {momentum: 1}", ["training.momentum: 1", "of at least 0 and below 1"]),
        ("evaluation: {exact: 1}", ["evaluation.exact: 1", "true or false"]),
        ("evaluation: {ais_betas: 1}", ["evaluation.ais_betas", "at least 2, or 0"]),
        ("data: {name: fashionmnist}", ["data.name: 'fashionmnist'", "did you mean fashion_mnist?"]),
        ("data: {name: cifar10}", ["data.name: 'cifar10'", "one of digits, mnist"]),
        ("data: {n_trian: 5}", ["data.n_trian: 5", "did you mean n_train?"]),
        ("learning_rate: 1", ["learning_rate: 1", "did you mean training.learning_rate?"]),
        ("n_chains: 1", ["did you mean negatives.n_chains or evaluation.n_chains?"]),
        ("zzz: 1", ["zzz: 1", "the keys here are recipe, name"]),
        ("1: 2", ["1: keys are text"]),
        ("training:", ["training: null", "a section"]),
        ("health: [1]", ["health: [1]", "a section"]),
        ("recipe: rmb", ["recipe: 'rmb'", "rbm is wanted", "did you mean rbm?"]),
        ("recipe: [rbm]", ["recipe: ['rbm']"]),
        ("name: 2024-01-01", ["name: 2024-01-01", "text is wanted: put it in quotes"]),
        ("name: a/b", ["name: 'a/b'", "slashes"]),
        ("name: ..", ["name: '..'", "no dot"]),
        ("name: ''", ["name: ''", "1 to 100"]),
        ("data: {name: binarized_mnist, binarization: static}", ["data.binarization: 'static'", "threshold"]),
        ("data: {name: binarized_mnist, binarization: stochastic}", ["data.binarization: 'stochastic'"]),
        ("negatives: {method: cd, n_chains: 5}", ["negatives.n_chains: 5", "method: pcd"]),
        ("training: {optimizer: adam, momentum: 0.5}", ["training.momentum: 0.5", "adam"]),
        ("training: {warmup_epochs: 11}", ["training.warmup_epochs: 11", "n_epochs is 10"]),
        ("data: {n_train: 100}", ["training.batch_size: 128", "data.n_train is 100"]),
    ],
)
def test_one_wrong_value_is_one_line(write, text, said):
    problem = only(write(text))
    assert all(words in problem for words in said), problem


def test_every_problem_is_told_at_once(write):
    path = write("seed: x\ntraining:\n  n_epochs: 0\n  n_epochs: 0\n  moment: 0.1\nhealth: 3\n")
    found = problems(path, "x", "data.nme=digits", "model.n_hidden=0")
    assert [line.split(" ")[0] for line in found] == [
        *(
            "line",
            "override",
            "data.nme:",
            "seed:",
            "model.n_hidden:",
            "training.n_epochs:",
            "training.moment:",
        ),
        "health:",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- a\n- b", "its top level is a list"),
        ("hello", "its top level is the single value 'hello'"),
        ("seed: 1\ntraining:\n  k: [1\nb: 2", "line 4, column 2: not YAML"),
        ("seed: 1\n\tdata: 2", "line 2, column 1: not YAML"),
        ("seed: 1\n---\nseed: 2", "line 2, column 1: not YAML"),
        ("seed: !!python/object:os.system 1", "line 1, column 7: not YAML"),
        ("seed: 1\nname: \x01", "line 2: not YAML"),
        (b"seed: 1\nname: \xff", "line 2: byte 0xff is not UTF-8"),
        ("name: 2024-13-45", "month must be in"),
        ("seed: 1\ndata: {}\nseed: 2", "line 3: the key seed stands twice, first on line 1"),
        ("data:\n  name: mnist\n  name: digits", "line 3: the key name stands twice, first on line 2"),
    ],
)
def test_files_that_cannot_be_read(write, text, said):
    assert said in only(write(text))


def test_a_missing_file_and_a_folder(tmp_path, write):
    path = write("seed: 1", "rbm_digits.yaml")
    assert f"did you mean {path}?" in only(tmp_path / "rbm_digit.yaml")
    assert only(tmp_path / "other" / "none.yaml") == "there is no such file"
    assert "cannot be read" in only(tmp_path)


def test_a_byte_order_mark_and_merged_keys_are_fine(write):
    assert load_config(write(b"\xef\xbb\xbfseed: 3")).seed == 3
    merged = "model: &m {n_hidden: 5}\nnegatives: {k: 2}\ndata: {name: digits}\n"
    assert load_config(write(merged + "training: {<<: {n_epochs: 2}, n_epochs: 3}")).training.n_epochs == 3


def test_a_mapping_without_a_name():
    with pytest.raises(ConfigError, match="name: nothing was given; text is wanted"):
        parse_config({})


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


def test_every_field_is_described_and_every_number_bounded():
    for path, field in leaves(RBMConfig):
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
    if path.name != "rbm_mnist_best.yaml":
        assert (config.negatives.method, str(config.negatives.k)) == named.groups()
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_repository_has_files():
    assert len(FILES) == 12 and math.prod(path.suffix == ".yaml" for path in FILES)


@pytest.mark.parametrize("name", names())
def test_the_page_holds_what_the_code_says_of_each_recipe(name):
    recipe = find(name)
    assert schema_table(recipe.Config) in PAGE
    assert metrics_table(recipe) in PAGE


def test_the_pages_example_gives_the_pages_message(tmp_path, monkeypatch):
    text, command, message = re.search(
        r"```yaml\n(.*?)```.*?```console\n\$ (ebm-jax config wrong.yaml [^\n]*)\nebm-jax: (.*?)```",
        PAGE,
        re.DOTALL,
    ).groups()
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("wrong.yaml", command.split("-o ")[1:])
    assert str(caught.value) == message.rstrip("\n")


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
