"""The manifest keeps what it is given, refuses what would spoil an experiment, and splits by artist."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ast_repr import manifest
from ast_repr.manifest import Clip, ManifestError

CLASSES = ["bass", "flute", "violin"]
TWO = [
    Clip("a", "artist 1", "audio/a.ogg", 0.0, "train", {"bass": 0.5, "flute": 0.0, "violin": 1.0}),
    Clip("b", "artist 2", "audio/ü.ogg", 3.5, "test", {"flute": 0.25}),
]


def many(groups=30, each=5, seed=0):
    """Training clips of `groups` artists, and some test clips."""
    rng = np.random.default_rng(seed)
    clips = [
        Clip(
            f"c{g}-{i}",
            f"g{g}",
            "x.ogg",
            0.0,
            "train" if g < groups else "test",
            {str(rng.choice(CLASSES)): 1.0},
        )
        for g in range(groups + 5)
        for i in range(each)
    ]
    return clips


def test_what_is_written_is_read(tmp_path):
    manifest.write(tmp_path / "new" / "folder", TWO, CLASSES)
    assert manifest.read(tmp_path / "new" / "folder") == (TWO, CLASSES)


def test_a_line_is_plain_json(tmp_path):
    manifest.write(tmp_path, TWO, CLASSES)
    line = (tmp_path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[1]
    assert json.loads(line) == {
        "clip": "b",
        "group": "artist 2",
        "audio": "audio/ü.ogg",
        "start_s": 3.5,
        "split": "test",
        "labels": {"flute": 0.25},
    }


def test_the_mask_is_absence():
    targets, mask = manifest.targets(TWO, CLASSES)
    assert targets.dtype == np.float32 and mask.dtype == bool
    assert targets.tolist() == [[0.5, 0.0, 1.0], [0.0, 0.25, 0.0]]
    assert mask.tolist() == [[True, True, True], [False, True, False]]


def test_no_manifest_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(ManifestError, match="run the stage `prepare`"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("line", ["{", '{"clip": "a"}', "[]", "3", '{"clip": "a", "tempo": 3}'])
def test_an_unreadable_line_is_named_by_its_number(line, tmp_path):
    manifest.write(tmp_path, TWO, CLASSES)
    with open(tmp_path / "manifest.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ManifestError, match=r"manifest\.jsonl, line 3: not a clip"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "trian"}, "clip b: unknown split 'trian': did you mean 'train'"),
        ({"clip": "a"}, "clip a is listed twice, in train and test"),
        ({"clip": "a", "split": "train"}, "clip a is listed twice, in train and train"),
        ({"labels": {"flut": 1.0}}, "clip b: unknown instrument 'flut': did you mean 'flute'"),
        (
            {"labels": {"flute": 1.01}},
            "clip b: the relevance of flute is 1.01; expected a number from 0 to 1",
        ),
        ({"labels": {"flute": -0.1}}, "the relevance of flute is -0.1"),
        ({"labels": {"flute": float("nan")}}, "the relevance of flute is nan"),
        ({"labels": {"flute": float("inf")}}, "the relevance of flute is inf"),
        ({"labels": {"flute": "1"}}, "the relevance of flute is 1; expected a number"),
        ({"labels": {"flute": None}}, "the relevance of flute is None"),
        ({"group": "artist 1"}, "group artist 1 is in both train and test"),
        ({"group": "artist 1", "split": "valid"}, "group artist 1 is in both train and valid"),
    ],
)
def test_what_would_spoil_an_experiment_is_refused(changes, message):
    manifest.check(TWO, CLASSES)
    with pytest.raises(ManifestError, match=message):
        manifest.check([TWO[0], replace(TWO[1], **changes)], CLASSES)


@pytest.mark.parametrize("elsewhere", ["valid", "test"])
def test_a_class_must_be_observed_in_training(elsewhere):
    clips = [
        replace(TWO[0], labels={"bass": 1.0, "flute": 0.0}),
        replace(TWO[1], split=elsewhere, labels={"violin": 1.0}),
    ]
    with pytest.raises(ManifestError, match="never observed in training: violin"):
        manifest.check(clips, CLASSES)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_takes_whole_artists_and_about_the_fraction(fraction, seed):
    clips = many()
    split = manifest.split_validation(clips, fraction, seed)
    assert [replace(clip, split="x") for clip in split] == [
        replace(clip, split="x") for clip in clips
    ]
    groups = {}
    for clip in split:
        groups.setdefault(clip.group, set()).add(clip.split)
    assert all(len(found) == 1 for found in groups.values())
    counts = Counter(clip.split for clip in split)
    assert counts["test"] == 25 and fraction * 150 <= counts["valid"] < fraction * 150 + 5
    manifest.check(split, CLASSES)


def chosen(clips, seed):
    return {
        clip.clip for clip in manifest.split_validation(clips, 0.2, seed) if clip.split == "valid"
    }


def test_the_seed_alone_decides_the_split():
    clips = many()
    shuffled = [clips[i] for i in np.random.default_rng(4).permutation(len(clips))]
    assert chosen(clips, 3) == chosen(clips, 3) == chosen(shuffled, 3)
    assert chosen(clips, 3) != chosen(clips, 4)


@pytest.mark.parametrize("seed", range(8))
def test_no_class_loses_its_last_training_label(seed):
    clips = many(groups=4)
    rare = [clip if clip.group != "g2" else replace(clip, labels={"harp": 0.0}) for clip in clips]
    split = manifest.split_validation(rare, 0.9, seed)
    assert {clip.split for clip in split if clip.group == "g2"} == {"train"}
    manifest.check(split, [*CLASSES, "harp"])
    assert "valid" in {clip.split for clip in split}
