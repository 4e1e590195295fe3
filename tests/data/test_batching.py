import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from ebm_jax.data import batches

REFUSED = (ValueError, TypeCheckError)
IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1).repeat(4, axis=2)
LABELS = np.arange(50, dtype=np.int32) * 10


def test_each_row_comes_once_with_its_label():
    found = list(batches(IMAGES, LABELS, 8, key=jax.random.key(0), drop_remainder=False))
    assert [len(images) for images, _ in found] == [8] * 6 + [2]
    images = np.concatenate([images for images, _ in found])
    labels = np.concatenate([labels for _, labels in found])
    assert images.dtype == np.uint8 and images.shape == IMAGES.shape and labels.dtype == np.int32
    np.testing.assert_array_equal(np.sort(images[:, 0, 0]), np.arange(50))
    np.testing.assert_array_equal(images[:, 0, 3].astype(int) * 10, labels)
    assert (labels != LABELS).any()


def test_remainder_is_dropped_by_default_so_that_batches_have_one_shape():
    whole = list(batches(IMAGES, None, 8, key=jax.random.key(0), drop_remainder=False))
    dropped = list(batches(IMAGES, None, 8, key=jax.random.key(0)))
    assert len(dropped) == 6
    for one, other in zip(dropped, whole, strict=False):
        np.testing.assert_array_equal(one, other)


def test_order_is_that_of_the_key():
    def order(seed):
        return np.concatenate(list(batches(LABELS, batch_size=10, key=jax.random.key(seed))))

    np.testing.assert_array_equal(order(1), order(1))
    assert (order(1) != order(2)).any()
    np.testing.assert_array_equal(order(1), LABELS[np.asarray(jax.random.permutation(jax.random.key(1), 50))])


def test_without_labels_and_with_default_size():
    (batch,) = batches(np.zeros((200, 3)), key=jax.random.key(0))
    assert batch.shape == (128, 3)


def test_jax_arrays_memory_maps_and_pytrees(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tree = {"mapped": mapped, "jax": jnp.asarray(IMAGES)}
    batch, labels = next(batches(tree, LABELS, 5, key=jax.random.key(3)))
    assert isinstance(batch["jax"], jax.Array) and isinstance(batch["mapped"], np.ndarray)
    np.testing.assert_array_equal(batch["mapped"], batch["jax"])
    np.testing.assert_array_equal(batch["mapped"][:, 0, 0].astype(int) * 10, labels)


@pytest.mark.parametrize("size", [0, -1, 51, True, 2.5, "8"])
def test_bad_batch_size_is_refused_at_the_call(size):
    with pytest.raises(REFUSED, match="batch_size"):
        batches(IMAGES, batch_size=size, key=jax.random.key(0))


def test_bad_rows_and_keys_are_refused_at_the_call():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="49 and 50 rows"):
        batches(IMAGES, LABELS[:-1], key=key)
    with pytest.raises(ValueError, match="no rows"):
        batches(IMAGES[:0], key=key)
    with pytest.raises(REFUSED, match="key"):
        batches(IMAGES, key=jax.random.PRNGKey(0))
