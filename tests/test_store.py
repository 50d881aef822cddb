"""The feature store gives back what was written, refuses what does not fit, and survives being killed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ast_repr import store
from ast_repr.store import Store, StoreError

SPEC = {"feature": "logmel", "frames": 8, "bins": 4}


def features(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 1, 8, 4)).astype(np.float16)


@pytest.fixture
def folder(tmp_path):
    """Two shards: clips a0..a11 and b0..b4."""
    store.write_shard(tmp_path, 0, features(12), [f"a{i}" for i in range(12)], SPEC)
    store.write_shard(tmp_path, 1, features(5, seed=1), [f"b{i}" for i in range(5)], SPEC)
    return tmp_path


def test_what_is_written_is_read_to_the_bit(folder):
    found = Store(folder, SPEC).read([f"a{i}" for i in range(12)] + [f"b{i}" for i in range(5)])
    assert found.dtype == np.float16
    assert np.array_equal(found, np.concatenate([features(12), features(5, seed=1)]))


@pytest.mark.parametrize(
    "wanted",
    [
        ["b4", "a2", "b0", "a11", "a0"],
        ["a7"],
        ["a3", "a3", "b1"],
        [f"a{i}" for i in reversed(range(12))],
        [],
    ],
)
def test_features_come_in_the_order_of_the_names(wanted, folder):
    everything = {"a": features(12), "b": features(5, seed=1)}
    found = Store(folder).read(wanted)
    assert found.shape == (len(wanted), 1, 8, 4)
    for row, name in zip(found, wanted):
        assert np.array_equal(row, everything[name[0]][int(name[1:])])


def test_the_shape_of_one_clip_is_known(folder):
    assert tuple(Store(folder).shape) == (1, 8, 4)


def test_a_clip_that_is_not_there_is_named(folder):
    with pytest.raises(
        StoreError, match=r"no features of 2 clips \(c9, ...\); run the stage `extract`"
    ):
        Store(folder).read(["a1", "c9", "d"])


def test_an_empty_folder_names_the_stage_that_fills_it(tmp_path):
    with pytest.raises(StoreError, match="run the stage `extract` first"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (SPEC | {"bins": 5}, r"bins 4 \(expected 5\)"),
        (SPEC | {"window": "povey"}, r"window None \(expected 'povey'\)"),
        ({"feature": "logmel", "bins": 4}, r"frames 8 \(expected None\)"),
    ],
)
def test_a_store_of_another_feature_is_refused_with_what_differs(other, named, folder):
    with pytest.raises(StoreError, match=named):
        Store(folder, other)
    with pytest.raises(StoreError, match=named):
        store.holds(folder, 0, [f"a{i}" for i in range(12)], other)


def test_holds_knows_which_clips_a_shard_has(folder):
    names = [f"b{i}" for i in range(5)]
    assert store.holds(folder, 1, names, SPEC)
    assert not store.holds(folder, 1, names[:4], SPEC)
    assert not store.holds(folder, 1, names[::-1], SPEC)
    assert not store.holds(folder, 2, names, SPEC)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_damaged_shard_is_named_and_made_again(share, folder):
    path = store.shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    assert not store.holds(folder, 1, [f"b{i}" for i in range(5)], SPEC)
    with pytest.raises(StoreError, match=f"{path.name}: damaged .*run the stage `extract`"):
        Store(folder)


def test_a_shard_says_which_of_its_clips_were_left_out(folder):
    store.write_shard(folder, 2, features(2), ["c0", "c2"], SPEC, {"c1": "missing"})
    store.write_shard(folder, 3, features(0), [], SPEC, {"d0": "empty"})
    assert store.left_out(folder) == Store(folder).left_out == {"c1": "missing", "d0": "empty"}
    assert store.holds(folder, 2, ["c0", "c1", "c2"], SPEC) and store.holds(folder, 3, ["d0"], SPEC)
    assert not store.holds(folder, 2, ["c0", "c2"], SPEC) and not store.holds(
        folder, 2, ["c0", "c1", "c2", "c3"], SPEC
    )
    assert np.array_equal(
        Store(folder).read(["c2", "b0"]), np.stack([features(2)[1], features(5, seed=1)[0]])
    )


def test_clips_that_one_feature_lacks_are_used_by_none(tmp_path):
    class Named(str):
        clip = property(str)

    store.write_shard(tmp_path / "logmel", 0, features(2), ["a0", "b0"], SPEC, {"a1": "missing"})
    store.write_shard(tmp_path / "vggish", 0, features(2), ["a0", "a1"], SPEC, {"b0": "missing"})
    (tmp_path / "other").mkdir()
    assert store.usable(tmp_path, [Named("a0"), Named("a1"), Named("b0")]) == ["a0"]


def test_a_store_without_any_clip_names_the_stage(tmp_path):
    store.write_shard(tmp_path, 0, features(0), [], SPEC, {"a0": "empty"})
    with pytest.raises(StoreError, match="run the stage `extract` first"):
        Store(tmp_path)


def test_clips_are_together_as_long_as_they_follow_each_other_in_one_shard(folder):
    assert Store(folder).together(["a3", "a5", "b1", "b0", "a0"]) == [[0, 1], [2, 3], [4]]
    with pytest.raises(StoreError, match="no features of 1 clips"):
        Store(folder).together(["a3", "x"])


KILLS = 14
WRITER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from ast_repr import files, store

folder, kills = sys.argv[1], int(sys.argv[2])
left = 0
random.seed(0)
for kill in range(kills):
    child = os.fork()
    if child == 0:
        for index in range(1000):
            values = np.full((32, 1, 64, 128), index % 7 + kill, np.float16)
            store.write_shard(folder, index, values, [f"{index}-{i}" for i in range(32)], {"bins": 128})
        os._exit(1)
    time.sleep(random.uniform(0.05, 0.25))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
    left += len(list(Path(folder).glob(".*.partial")))
    opened = store.Store(folder, {"bins": 128})
    for name in opened._place:
        values = opened.read([name])
        assert (values == values.flat[0]).all(), name
    for file in opened._files.values():
        file.close()
assert left, "no kill fell into the writing of a shard: the test has shown nothing"
files.sweep(folder)
assert not list(Path(folder).glob(".*"))
print(kills, "kills")
"""


def test_a_writer_that_is_killed_leaves_only_whole_shards(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(Path(store.__file__).parents[1]), "PATH": ""},
    )
    assert run.stdout.strip() == f"{KILLS} kills", run.stderr
