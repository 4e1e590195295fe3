"""Eager validation: the value and the remedy are in the message, and traced values are left alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import checks

pytestmark = pytest.mark.usefixtures("as_shipped")


class Pair(NamedTuple):
    first: object
    second: object


STRUCT = Pair(jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_come_back_as_int(value):
    assert checks.check_integer("n", value, 3) == 3
    assert type(checks.check_integer("n", value, 3)) is int


@pytest.mark.parametrize("value", [2, 3.0, True, "3", None, np.array([3]), jnp.int32(3)])
def test_other_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"n is .*; give a whole number of at least 3"):
        checks.check_integer("n", value, 3)


def test_choices():
    assert checks.check_choice("side", "left", ("left", "right")) == "left"
    with pytest.raises(ValueError, match="side is 'up'; choose one of 'left', 'right'"):
        checks.check_choice("side", "up", ("left", "right"))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_pass(impl):
    checks.check_key(jax.random.key(0, impl=impl))
    jax.jit(lambda key: checks.check_key(key))(jax.random.key(0, impl=impl))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (jax.random.PRNGKey(0), r"key is uint32\[2\]; make a typed one with jax.random.key"),
        (0, "key is 0; make a typed one"),
        (None, "key is None"),
        (jax.random.split(jax.random.key(0)), r"key has shape \(2,\); give a single key"),
    ],
)
def test_other_keys_are_refused(key, message):
    with pytest.raises(ValueError, match=message):
        checks.check_key(key)


def good(*leading):
    return Pair(jnp.zeros((*leading, 2, 3)), jnp.zeros(leading))


def test_what_fits_a_struct_passes():
    checks.check_struct("params", good(), STRUCT)
    checks.check_struct("x", good(5), STRUCT, leading=1)
    checks.check_struct("x", good(5, 6), STRUCT, leading=2)
    checks.check_struct("x", jax.tree.map(np.asarray, good()), STRUCT)
    checks.check_struct(
        "x", good()._replace(second=jnp.zeros((), jnp.int32)), STRUCT, dtypes={"float32", "int32"}
    )
    jax.vmap(lambda x: checks.check_struct("x", x, STRUCT) or x)(good(4))


@pytest.mark.parametrize(
    ("tree", "leading", "message"),
    [
        (tuple(good()), 0, "params has the structure"),
        (good()._replace(first=jnp.zeros((3, 2))), 0, r"params.first has shape \(3, 2\); expected \(2, 3\)"),
        (good()._replace(second=jnp.zeros(1)), 0, r"params.second has shape \(1,\); expected \(\)"),
        (good()._replace(second=0.5), 0, r"params.second is 0.5; expected an array float32\[\]"),
        (
            good()._replace(first=np.zeros((2, 3))),
            0,
            "params.first has dtype float64; expected float32: convert",
        ),
        (good(), 1, r"params.first has shape \(2, 3\); expected \(n_chains, 2, 3\)"),
        (good(5)._replace(second=jnp.zeros(())), 1, r"params.second has shape \(\); expected \(n_chains,\)"),
    ],
)
def test_what_does_not_fit_is_named(tree, leading, message):
    with pytest.raises(ValueError, match=message):
        checks.check_struct("params", tree, STRUCT, leading=leading)


def test_shapes_are_checked_inside_jit_too():
    with pytest.raises(ValueError, match=r"expected \(2, 3\)"):
        jax.jit(lambda x: checks.check_struct("x", x, STRUCT))(good(5))


def test_finite_numbers_pass():
    checks.check_finite("params", good())
    checks.check_finite("x", (jnp.ones(3, jnp.uint8), jnp.ones(2, bool), jnp.ones(0)))
    checks.check_finite("x", jnp.ones(2, jnp.bfloat16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_first_bad_number_is_named(value, dtype):
    bad = good()._replace(first=jnp.zeros((2, 3), dtype).at[1, 0].set(value).at[1, 2].set(value))
    with pytest.raises(
        ValueError, match=r"params.first holds .* at index \(1, 0\) \(2 of 6 values are not finite\)"
    ):
        checks.check_finite("params", bad)


def test_traced_values_are_not_looked_at():
    answers = []

    def inside(x):
        checks.check_finite("x", x)
        checks.check_levels("x", x.astype(jnp.uint8), 2)
        answers.append(checks.is_concrete(x))
        return x

    jax.jit(inside)(jnp.array([np.nan, 9.0]))
    jax.vmap(inside)(jnp.array([np.nan, 9.0]))
    assert answers == [False, False]
    assert checks.is_concrete({"a": jnp.ones(2), "b": (np.ones(1), 3.0)})


def test_levels():
    checks.check_levels("x", (jnp.array([0, 3], jnp.uint8), jnp.ones(2, bool), jnp.ones(0, jnp.uint8)), 4)
    with pytest.raises(ValueError, match=r"x\[1\] holds level 4; levels run from 0 to 3"):
        checks.check_levels("x", (jnp.zeros(2, jnp.uint8), jnp.array([1, 4], jnp.uint8)), 4)


def test_negative_levels():
    with pytest.raises(ValueError, match="x holds level -1; levels run from 0 to 3"):
        checks.check_levels("x", jnp.array([1, -1], jnp.int32), 4)
