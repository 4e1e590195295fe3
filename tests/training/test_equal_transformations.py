"""Transformations that are built again are equal where they do the same, and only there."""

import functools
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax.training.equal_transformations import comparable


def schedule(scale):
    return lambda count: scale / (1 + count)


MAKERS = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
    "schedule": lambda rate: optax.adam(optax.cosine_decay_schedule(rate, 100)),
    "own schedule": lambda rate: optax.sgd(schedule(rate)),
    "partial": lambda rate: optax.sgd(functools.partial(lambda rate, count: rate, rate)),
    "chain": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate), optax.ema(0.9)),
    "array": lambda rate: optax.scale(jnp.float32(rate)),
    "multi": lambda rate: optax.MultiSteps(optax.adam(rate), 2).gradient_transformation(),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_equal_numbers_make_equal_transformations(make):
    one, same, other = (comparable(make(rate)) for rate in (0.1, 0.1, 0.2))
    assert one == same and hash(one) == hash(same)
    assert one != other


def test_what_cannot_be_compared_is_equal_to_itself_alone():
    class Rate:
        __slots__ = ()

        def __call__(self, count):
            return 0.1

    one = optax.sgd(Rate())
    assert comparable(one) == comparable(one) != comparable(optax.sgd(Rate()))


def test_a_global_that_changed_makes_another_transformation(monkeypatch):
    """The second schedule has the code and the closure of the first, and reads another number."""
    settings = types.ModuleType("settings")
    settings.rate = 0.1
    monkeypatch.setitem(globals(), "RATE", 0.1)
    monkeypatch.setitem(globals(), "SETTINGS", settings)

    def make():
        return comparable(optax.sgd(lambda count: RATE + SETTINGS.rate))

    first = make()
    assert first == make() and hash(first) == hash(make())
    monkeypatch.setitem(globals(), "RATE", 0.2)
    second = make()
    assert first != second
    settings.rate = 0.2
    assert second != make()


def test_an_object_that_may_change_is_not_compared_by_value():
    class Settings:
        rate = 0.1

    settings = Settings()

    def make():
        return optax.sgd(lambda count: settings.rate)

    tx = make()
    assert comparable(tx) == comparable(tx) and comparable(tx) != comparable(make())


def test_a_function_that_calls_itself_is_equal_to_itself_alone():
    def make():
        def rate(count):
            return 0.1 if count < 1 else rate(count - 1)

        return optax.sgd(rate)

    tx = make()
    assert comparable(tx) == comparable(tx) and comparable(tx) != comparable(make())


def test_zero_and_one_are_not_false_and_true():
    def make(value):
        return optax.GradientTransformation(lambda p: (), lambda u, s, p=None: ([u][value and 0], s))

    assert comparable(make(1)) != comparable(make(True)) != comparable(make(1.0))
    assert comparable(make(0.0)) != comparable(make(-0.0))


def test_a_transformation_keeps_what_it_does():
    tx = optax.sgd(0.5)
    params = {"w": jnp.ones(3)}
    found, _ = comparable(tx).update(params, comparable(tx).init(params), params)
    np.testing.assert_array_equal(found["w"], -0.5)
