"""What each error of a configuration says."""

import re
from pathlib import Path

import pytest

from ebm_jax.experiment.config import ConfigError, load_config, parse_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "configs").glob("*"))


# Nine of nine of nine, eight times: 43 million values.
BOMB = "a: &a [1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def problems(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert str(caught.value).splitlines()[0] == f"{path}:"
    assert str(caught.value).splitlines()[1:] == [f"  {line}" for line in caught.value.problems]
    return list(caught.value.problems)


def only(path, *overrides):
    (problem,) = problems(path, *overrides)
    return problem


# Overrides


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


# Files


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
        ("recipe: rmb", ["recipe: 'rmb'", "one of rbm, conv, jem, latent", "did you mean rbm?"]),
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
        (
            "seed: 1\nname: 2024-13-45",
            "line 2, column 7: not YAML: '2024-13-45' is no timestamp (month must be in",
        ),
        ("seed: !!bool x", "line 1, column 7: not YAML: 'x' is no bool ("),
        ("seed: !!int ''", "line 1, column 7: not YAML: '' is no int ("),
        ("seed: !!float ''", "line 1, column 7: not YAML: '' is no float ("),
        ("seed: !!timestamp x", "line 1, column 7: not YAML: 'x' is no timestamp ("),
        ("seed: !!map x", "line 1, column 7: not YAML"),
        ("seed: !!binary é", "line 1, column 7: not YAML"),
        ('seed: 1\nname: "\\ud800"', "line 2, column 7: not YAML: '\\ud800' holds half a character"),
        (
            "seed: 1:30",
            "line 1, column 7: not YAML: 1:30 means 90 in YAML 1.1, which counts in sixties: write 90",
        ),
        ("seed: -1:30.5", "means -90.5 in YAML 1.1"),
        (
            "seed: 010",
            "line 1, column 7: not YAML: 010 means 8 in YAML 1.1, which reads it as octal: write 8",
        ),
        ("seed: " + "1" * 5000, "line 1, column 7: not YAML: '1111"),
        ("seed: 0x" + "f" * 5000, "line 1, column 7: not YAML: the number is too long"),
        ("seed: 1" + ":1" * 5000, "line 1, column 7: not YAML: the number is too long"),
        ("seed: 1\ndata: " + "[" * 100_000, "line 2, column 56: not YAML: more than 50 levels are nested"),
        (
            "seed: &a [*a]",
            "line 1, column 11: not YAML: *a stands inside the value that it repeats",
        ),
        (BOMB, "line 5, column 4: not YAML: with its aliases written out, it has more than 10,000 values"),
        (
            BOMB.replace("[1]", "{b: 1}").replace("[*", "{<<: [*").replace("]", "]}"),
            "its aliases written out",
        ),
        ("seed: " + " " * 2**18, "it has more than 262,144 bytes"),
        ('"\\e[2J\\n": 1', r"\x1b[2J\n: 1 was given"),
        ('name: "a\\x9b"', "printable characters"),
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
