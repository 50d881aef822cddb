"""The feature store returns the written values, refuses mismatches, and survives kills.

Mismatches are another feature, other audio under the same name, and a single flipped bit.
"""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ast_repr.data import feature_store
from ast_repr.data.feature_store import Store, StoreError
from ast_repr.manifest import Clip

SPEC = {"feature": "logmel", "frames": 8, "bins": 4}


def features(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 1, 8, 4)).astype(np.float16)


def made_from(*names):
    """{clip: identity} of clips made from separate files."""
    return {name: f"sha256 of {name}" for name in names}


A = made_from(*(f"a{i}" for i in range(12)))
B = made_from(*(f"b{i}" for i in range(5)))


@pytest.fixture
def folder(tmp_path):
    """Two shards: clips a0..a11 and b0..b4."""
    feature_store.write_shard(tmp_path, 0, features(12), A, SPEC)
    feature_store.write_shard(tmp_path, 1, features(5, seed=1), B, SPEC)
    return tmp_path


def test_written_features_are_read_back_to_the_bit(folder):
    result = Store(folder, SPEC).read([f"a{i}" for i in range(12)] + [f"b{i}" for i in range(5)])
    assert result.dtype == np.float16
    assert np.array_equal(result, np.concatenate([features(12), features(5, seed=1)]))


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
    result = Store(folder).read(wanted)
    assert result.shape == (len(wanted), 1, 8, 4)
    for row, name in zip(result, wanted, strict=True):
        assert np.array_equal(row, everything[name[0]][int(name[1:])])


def test_the_shape_of_one_clip_is_known(folder):
    assert tuple(Store(folder).shape) == (1, 8, 4)


def test_a_missing_clip_is_named(folder):
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
def test_a_store_of_another_feature_is_refused_by_the_differing_keys(other, named, folder):
    with pytest.raises(StoreError, match=named):
        Store(folder, other)
    with pytest.raises(StoreError, match=named):
        feature_store.holds(folder, 0, A, other)


def test_holds_knows_which_clips_a_shard_has(folder):
    assert feature_store.holds(folder, 1, B, SPEC)
    assert not feature_store.holds(folder, 1, made_from(*list(B)[:4]), SPEC)
    assert not feature_store.holds(folder, 1, made_from(*reversed(B)), SPEC)
    assert not feature_store.holds(folder, 2, B, SPEC)


def test_other_audio_under_the_same_name_is_noticed(folder):
    other = B | {"b3": "sha256 of other audio"}
    assert not feature_store.holds(folder, 1, other, SPEC)
    assert feature_store.read_header(feature_store.shard_path(folder, 1)).changed(A | other) == [
        "b3"
    ]
    with pytest.raises(StoreError, match=r"1 clips have changed .*\(b3, ...\); .*`extract`"):
        Store(folder, SPEC, A | other)
    Store(folder, SPEC, A | B)
    Store(folder, SPEC, A)  # the others are not asked for


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_damaged_shard_is_named_and_made_again(share, folder):
    path = feature_store.shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    assert not feature_store.holds(folder, 1, B, SPEC)
    with pytest.raises(StoreError, match=f"{path.name}: damaged.*run the stage `extract`"):
        Store(folder)


def test_no_flipped_bit_goes_unnoticed(folder):
    path, whole = (
        feature_store.shard_path(folder, 1),
        feature_store.shard_path(folder, 1).read_bytes(),
    )
    names, expected = [*A, *B], np.concatenate([features(12), features(5, seed=1)])
    rng = random.Random(0)
    noticed = 0
    for _ in range(150):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        try:
            assert np.array_equal(Store(folder, SPEC, A | B).read(names), expected), (place, bit)
        except StoreError as error:
            assert path.name in str(error)
            noticed += 1
    assert noticed > 15, "all flips fell into padding: the test has shown nothing"


def test_damaged_values_are_noticed_when_they_are_read(folder):
    path = feature_store.shard_path(folder, 0)
    whole = path.read_bytes()
    place = whole.index(features(12)[7].tobytes()) + 5
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    opened = Store(folder, SPEC, A | B)
    assert np.array_equal(opened.read(["a6", "a8"]), features(12)[[6, 8]])
    for names in (["a7"], list(A)):
        with pytest.raises(StoreError, match=f"{path.name}: damaged.*delete it"):
            opened.read(names)


def test_a_shard_says_which_of_its_clips_were_left_out(folder):
    c, d = made_from("c0", "c1", "c2"), made_from("d0")
    feature_store.write_shard(folder, 2, features(2), c, SPEC, {"c1": "missing"})
    feature_store.write_shard(folder, 3, features(0), d, SPEC, {"d0": "empty"})
    assert Store(folder).left_out == {"c1": "missing", "d0": "empty"}
    assert [header.left_out for header in feature_store.headers(folder)[2:]] == [
        {"c1": "missing"},
        {"d0": "empty"},
    ]
    assert feature_store.holds(folder, 2, c, SPEC)
    assert feature_store.holds(folder, 3, d, SPEC)
    assert not feature_store.holds(folder, 2, made_from("c0", "c2"), SPEC)
    assert not feature_store.holds(folder, 2, c | made_from("c3"), SPEC)
    assert not feature_store.holds(folder, 2, c | {"c1": "sha256 of repaired audio"}, SPEC)
    assert np.array_equal(
        Store(folder).read(["c2", "b0"]), np.stack([features(2)[1], features(5, seed=1)[0]])
    )


def test_clips_without_one_of_the_features_are_not_used(tmp_path):
    clips = [
        Clip(name, name, f"{name}.ogg", 0.0, "train", {}, f"audio {name}", {"vggish": name})
        for name in ("a0", "a1", "b0")
    ]
    logmel = {clip.clip: clip.identity("logmel") for clip in clips}
    vggish = {clip.clip: clip.identity("vggish") for clip in clips}
    feature_store.write_shard(tmp_path / "logmel", 0, features(2), logmel, SPEC, {"a1": "missing"})
    feature_store.write_shard(tmp_path / "vggish", 0, features(2), vggish, SPEC, {"b0": "missing"})
    (tmp_path / "other").mkdir()
    assert feature_store.usable(tmp_path, clips) == clips[:1]
    mended = [clips[0], replace(clips[1], sha256="mended"), clips[2]]
    assert feature_store.usable(tmp_path, mended) == mended[:2]  # a1 was left out for other audio


def test_a_store_without_any_clip_names_the_stage(tmp_path):
    feature_store.write_shard(tmp_path, 0, features(0), made_from("a0"), SPEC, {"a0": "empty"})
    with pytest.raises(StoreError, match="run the stage `extract` first"):
        Store(tmp_path)


def test_consecutive_clips_of_one_shard_are_grouped(folder):
    assert Store(folder).group_by_shard(["a3", "a5", "b1", "b0", "a0"]) == [[0, 1], [2, 3], [4]]
    with pytest.raises(StoreError, match="no features of 1 clips"):
        Store(folder).group_by_shard(["a3", "x"])


KILLS = 8
WRITER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from ast_repr import atomic
from ast_repr.data import feature_store

folder, kills = sys.argv[1], int(sys.argv[2])
left = 0
random.seed(0)
for kill in range(kills):
    child = os.fork()
    if child == 0:
        for index in range(1000):
            values = np.full((32, 1, 64, 128), index % 7 + kill, np.float16)
            made_from = {f"{index}-{i}": "" for i in range(32)}
            feature_store.write_shard(folder, index, values, made_from, {"bins": 128})
        os._exit(1)
    time.sleep(random.uniform(0.05, 0.25))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
    left += len(list(Path(folder).glob(".*.partial")))
    opened = feature_store.Store(folder, {"bins": 128})
    for name in opened._places:
        values = opened.read([name])
        assert (values == values.flat[0]).all(), name
    for file in opened._files.values():
        file.close()
assert left, "no kill fell into the writing of a shard: the test has shown nothing"
atomic.sweep(folder)
assert not list(Path(folder).glob(".*"))
print(kills, "kills")
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_only_whole_shards(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(Path(feature_store.__file__).parents[2]), "PATH": ""},
    )
    assert run.stdout.strip() == f"{KILLS} kills", run.stderr
