"""Checkpoints come back bit for bit or not at all."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.experiment.run.checkpoint import CheckpointError, Checkpoints


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": (
            jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
            jnp.asarray(rng.normal(size=4), jnp.bfloat16),
        ),
        "chains": jnp.asarray(rng.integers(0, 2, (7, 2)), jnp.uint8),
        "key": jax.random.key(seed),
        "step": jnp.int32(seed),
        "nothing": jnp.zeros((0, 3)),
    }


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints, of which two are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        checkpoints.save(step, tree(step), {"metrics_bytes": step})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def content(leaf):
    words = jax.random.key_data(leaf) if leaf.dtype == jax.random.key(0).dtype else leaf
    return np.asarray(words).tobytes()


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and content(x) == content(y) for x, y in pairs)


def files_of(checkpoints):
    return sorted(path for path in checkpoints.folder.rglob("*") if path.is_file())


def test_what_is_loaded_is_what_was_saved(saved):
    restored = saved.load_latest(tree())
    assert (restored.step, restored.facts, restored.problems) == (30, {"metrics_bytes": 30}, ())
    assert jax.tree.structure(restored.tree) == jax.tree.structure(tree())
    assert same(restored.tree, tree(30)) and not same(restored.tree, tree(20))


def test_shapes_and_dtypes_are_enough_to_load(saved):
    restored = saved.load_latest(jax.eval_shape(tree))
    assert same(restored.tree, tree(30)) and restored.tree["key"].dtype == jax.random.key(0).dtype


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(step, tree(step), {"best": {"step": 2}} if step > 1 else {})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5]
    assert same(checkpoints.load(2, tree()).tree, tree(2))


def test_a_flipped_bit_in_any_file_is_found_and_the_one_before_is_loaded(saved):
    newest = [path for path in files_of(saved) if "00000030" in str(path)]
    assert len(newest) > 5
    rng = np.random.default_rng(0)
    for path in newest:
        whole = path.read_bytes()
        if not whole:
            continue
        for at in {0, len(whole) - 1, int(rng.integers(len(whole)))}:
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="corrupt"):
                saved.load(30, tree())
            restored = saved.load_latest(tree())
            assert restored.step == 20 and "00000030" in restored.problems[0]
        path.write_bytes(whole)
    assert saved.load_latest(tree()).step == 30


@pytest.mark.parametrize("damage", ["truncated", "missing", "added", "linked"])
def test_files_cut_off_missing_or_added_are_found(saved, damage):
    path = max((p for p in files_of(saved) if "00000030" in str(p.parent)), key=lambda p: p.stat().st_size)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "missing":
        path.unlink()
    elif damage == "added":
        path.with_name("more").write_bytes(b"")
    else:
        path.rename(saved.folder.parent / "outside")
        path.symlink_to(saved.folder.parent / "outside")
    with pytest.raises(CheckpointError, match="is a symbolic link" if damage == "linked" else "corrupt"):
        saved.load(30, tree())
    assert saved.load_latest(tree()).step == 20


def test_other_shapes_and_dtypes_are_refused_by_name(saved):
    wider = tree() | {"chains": jnp.zeros((7, 3), jnp.uint8)}
    with pytest.raises(CheckpointError, match=r"uint8\[7,2\] at chains, and this run needs uint8\[7,3\]"):
        saved.load(30, wider)
    with pytest.raises(CheckpointError, match=r"int32\[\] at step, and this run needs float32\[\]"):
        saved.load(30, tree() | {"step": jnp.float32(0)})


def test_without_a_manifest_there_is_no_checkpoint_and_leftovers_are_removed(saved):
    """What an interruption leaves is removed. What lost its manifest is kept under another name."""
    (saved.folder / "00000030.json").unlink()
    (saved.folder / "00000050.json").write_text("")
    leftovers = [
        "00000040.json",
        "00000040.json.77.tmp",
        "00000040.saving",
        "00000060.removing",
        "00000070.saving.x",
    ]
    for name in leftovers:
        (saved.folder / name).mkdir() if name[9:10] in "sr" else (saved.folder / name).write_text("")
    (saved.folder / "notes.txt").write_text("mine")
    assert saved.steps() == [20]
    assert saved.clean() == leftovers and saved.clean() == []
    assert saved.set_aside() == ["unverified-00000030", "unverified-00000050.json"] == saved.set_aside()
    assert saved.load_latest(tree()).step == 20
    assert (saved.folder / "notes.txt").read_text() == "mine"
    (saved.folder / "00000030").mkdir()
    assert saved.set_aside()[0] == "unverified-00000030" and (saved.folder / "unverified-1-00000030").is_dir()


def test_a_step_that_is_saved_again_is_replaced(saved):
    saved.save(30, tree(7), {"metrics_bytes": 7})
    saved.wait()
    assert same(saved.load(30, tree()).tree, tree(7)) and saved.manifest(30)["facts"] == {"metrics_bytes": 7}


def test_the_best_of_each_kept_checkpoint_is_kept(tmp_path):
    """Where the newest is corrupt, the one before it still finds its best."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, best in ((10, 10), (20, 10), (30, 30)):
        checkpoints.save(step, tree(step), {"best": {"step": best}})
    checkpoints.wait()
    assert checkpoints.steps() == [10, 20, 30]
    checkpoints.save(40, tree(40), {"best": {"step": 30}})
    checkpoints.wait()
    assert checkpoints.steps() == [30, 40]


def test_none_at_all_and_none_that_is_whole(tmp_path, saved):
    assert Checkpoints(tmp_path / "elsewhere").load_latest(tree()) is None
    for step in (20, 30):
        (saved.folder / f"{step:08d}.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint can be loaded"):
        saved.load_latest(tree())
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 25"):
        saved.load(25, tree())


def test_no_room_is_told_and_the_one_before_is_whole(tmp_path):
    """The system's limit on the size of files stands for a full disk."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"x": jnp.zeros(8)}, {})
    checkpoints.wait()
    checkpoints.close()
    code = f"""
        import resource, signal, sys
        import numpy as np
        from ebm_jax.experiment.run.checkpoint import CheckpointError, Checkpoints
        checkpoints = Checkpoints(__import__("pathlib").Path({str(tmp_path / "checkpoints")!r}))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        checkpoints.save(2, {{"x": np.random.default_rng(0).normal(size=100_000)}}, {{}})
        try:
            checkpoints.wait()
        except CheckpointError as error:
            print(error)
            checkpoints.close()
            sys.exit(7)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert run.returncode == 7, run.stderr
    assert "could not write a checkpoint" in run.stdout and "the one of step 1 is intact" in run.stdout
    again = Checkpoints(tmp_path / "checkpoints")
    again.clean()
    assert again.load_latest({"x": jnp.zeros(8)}).step == 1
    assert [path.name for path in sorted(again.folder.iterdir())] == ["00000001", "00000001.json"]


def test_a_manifest_is_json_that_names_every_file(saved):
    manifest = json.loads((saved.folder / "00000030.json").read_text())
    place = saved.folder / "00000030"
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files and manifest["step"] == 30
    assert manifest["arrays"]["params/1"] == "bfloat16[4]"
