"""The classifier of digits: trained by the command, kept, judged by; and what a damaged file says."""

import os
import re
import shutil

import jax
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.metrics import classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(folder, digits_classifier):
    """A copy of the classifier, which tests damage and overwrite."""
    path = classifier.path_of("digits", folder)
    path.parent.mkdir(parents=True)
    shutil.copy(classifier.path_of("digits"), path)
    found = classifier.load("digits", folder)
    assert found.sha256 == digits_classifier.sha256
    return found


def test_one_that_is_missing_is_trained(tmp_path, monkeypatch, as_shipped):
    monkeypatch.setattr(classifier, "train", lambda *arguments: arguments)
    assert classifier.load("digits", tmp_path) == ("digits", tmp_path)


def test_pipes_and_archives_of_another_kind_are_refused(tmp_path, as_shipped):
    path = classifier.path_of("digits", tmp_path)
    path.parent.mkdir()
    np.savez_compressed(path, facts=np.asarray("{}"), mean=np.zeros(3_000_000))
    with pytest.raises(ej.data.DataFileError, match=r"is damaged \(its arrays unpack to .*; remove it"):
        classifier.load("digits", tmp_path)
    np.savez(path, facts=np.asarray("[" * 100_000))
    with pytest.raises(ej.data.DataFileError, match=r"digits.* is damaged \(.*; remove it"):
        classifier.load("digits", tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ej.data.DataFileError, match="not a regular file"):
        classifier.load("digits", tmp_path)


@pytest.mark.slow
def test_it_reads_digits_it_has_not_seen(trained, folder):
    test = ej.data.load("digits").test
    images = np.asarray(test.images, np.float32) / 127.5 - 1
    probabilities = trained.probabilities(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert trained.accuracy == (probabilities.argmax(axis=1) == test.labels).mean() > 0.95
    assert trained.features(images).shape == (len(images), 64)
    both = trained.read(images)
    np.testing.assert_array_equal(both[0], trained.features(images))
    np.testing.assert_array_equal(both[1], probabilities)
    # Features are those that the last layer turns into the probabilities, standardized over the training images.
    last = trained.params["last"]
    logits = (both[0] * trained.scale + trained.mean) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(jax.nn.softmax(logits), probabilities, atol=1e-5)
    seen = trained.features(np.asarray(ej.data.load("digits").train.images, np.float32) / 127.5 - 1)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-4)
    live = seen.std(axis=0) > 0
    assert live.sum() > 32
    np.testing.assert_allclose(seen.std(axis=0)[live], 1, rtol=1e-3)
    # Any number of images is read as each alone.
    np.testing.assert_allclose(trained.probabilities(images[:3]), probabilities[:3], atol=1e-6)
    assert [path.name for path in (folder / "classifiers").iterdir()] == [f"digits-{classifier.FORMAT}.npz"]


@pytest.mark.slow
def test_figures_tell_digits_from_noise_and_from_one_class(trained):
    images = np.asarray(ej.data.load("digits").train.images, np.float32) / 127.5 - 1
    labels = ej.data.load("digits").train.labels
    real, other = images[::2], images[1::2]
    noise = np.random.default_rng(0).uniform(-1, 1, other.shape)
    good, bad, ones = (
        ej.metrics.judge(trained, x, real, origin="data", n_steps=0)
        for x in (other, noise, images[labels == 1])
    )
    assert good.frechet < 0.2 * min(bad.frechet, ones.frechet)
    assert abs(good.kid) < 0.1 * bad.kid
    assert good.rarest_class > 0.05 and ones.rarest_class < 0.01
    assert good.inception_score > 8 and ones.inception_score < 2
    assert good.share_of_classes == pytest.approx(1) and good.n_samples == len(other)
    of_ones = ej.metrics.judge(trained, images[labels == 1], real, origin="data", n_steps=0, classes=[1])
    assert of_ones.share_of_classes > 0.95
    # Features of the real images, computed once, are as good as the images.
    assert ej.metrics.judge(trained, other, trained.features(real), origin="data", n_steps=0) == good
    for classes in ([10], [-1], []):
        with pytest.raises(
            ValueError, match=rf"classes is {re.escape(str(classes))}; give labels from 0 to 9"
        ):
            ej.metrics.judge(trained, other, real, origin="data", n_steps=0, classes=classes)
    named = good.as_dict("start_")
    assert named["start_frechet"] == good.frechet and not any(isinstance(v, str) for v in named.values())


@pytest.mark.slow
def test_bad_images_and_damaged_files_say_what_to_do(trained, folder):
    with pytest.raises(ValueError, match=r"images holds 2\.0; clip them to \[-1, 1\]"):
        trained.probabilities(np.full((1, 8, 8), 2.0))
    with pytest.raises(ValueError, match="images holds nan"):
        trained.probabilities(np.full((1, 8, 8), np.nan))
    with pytest.raises(ValueError, match="images has dtype uint8; give floats"):
        trained.probabilities(np.ones((1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"reads \(n, 8, 8\)"):
        trained.features(np.zeros((1, 9, 8)))
    with pytest.raises(ValueError, match="there is no classifier of 'cifar10'"):
        classifier.load("cifar10", folder)
    path = classifier.path_of("digits", folder)
    sound = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(folder / "changed.npz", **arrays | {"leaf0": arrays["leaf0"] + 1})
    np.savez(folder / "other.npz", **arrays | {"leaf0": np.zeros(3, np.float32)})
    np.savez(folder / "silent.npz", **arrays | {"facts": '{"sha256": "0"}'})
    for damaged, reason in (
        (sound[:1000], "File is not a zip file"),
        ((folder / "changed.npz").read_bytes(), "its hash differs"),
        ((folder / "other.npz").read_bytes(), "parameters.*"),
        ((folder / "silent.npz").read_bytes(), "'accuracy'"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"is damaged \({reason}\); remove it, and it is trained again"):
            classifier.load("digits", folder)
    path.write_bytes(sound)
    assert classifier.load("digits", folder).sha256 == trained.sha256


@pytest.mark.slow
def test_a_writer_that_fails_or_comes_second_does_no_harm(trained, folder, monkeypatch):
    path = classifier.path_of("digits", folder)
    save = np.savez

    def another_finishes_first(file, **arrays):
        save(file, **arrays)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "savez", save)
            classifier._write(path, trained)
        assert classifier.load("digits", folder).sha256 == trained.sha256

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", another_finishes_first)
    classifier._write(path, trained)
    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space left"):
        classifier._write(path, trained)
    assert classifier.load("digits", folder).sha256 == trained.sha256
    assert [file.name for file in path.parent.iterdir()] == [path.name]
