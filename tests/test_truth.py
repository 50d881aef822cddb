"""The truth of a corpus: read from its tables, kept apart from what is trained on."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from ast_repr import manifest
from ast_repr.corpora import custom, openmic, synthetic
from ast_repr.manifest import Clip, ManifestError

CLASSES = ["bass", "flute"]


def clip(name="a", split="train", **truth):
    return Clip(
        name, f"group {name}", f"{name}.ogg", 0.0, split, {"bass": 1.0, "flute": 0.0}, truth=truth
    )


def test_the_truth_is_kept_and_no_part_of_what_is_trained_on(tmp_path):
    known = [clip("a", bass=1, flute=0), clip("b", "test", bass=0, flute=1)]
    unknown = [replace(each, truth={}) for each in known]
    manifest.write(tmp_path, known, CLASSES)
    assert manifest.read(tmp_path) == (known, CLASSES)
    assert manifest.content_sha256(known, CLASSES) == manifest.content_sha256(unknown, CLASSES)
    assert manifest.truth_sha256(known) != manifest.truth_sha256(unknown)
    np.testing.assert_array_equal(manifest.truth(known, CLASSES), [[1, 0], [0, 1]])
    assert manifest.truth([*known, clip("c")], CLASSES) is None


@pytest.mark.parametrize("truth", [{"bass": 1}, {"bass": 1, "flute": 0.5}, {"bass": 1, "oboe": 0}])
def test_a_truth_of_some_classes_or_between_is_refused(truth):
    with pytest.raises(ManifestError, match="clip a"):
        manifest.check([clip(**truth)], CLASSES)


def write_table(path, header, *rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def corpus(tmp_path):
    """A training and a test clip in OpenMIC's layout, without audio."""
    (tmp_path / "partitions").mkdir()
    (tmp_path / "class-map.json").write_text(json.dumps({"bass": 0, "flute": 1}))
    for split, name in (("train", "000001_0"), ("test", "000002_0")):
        (tmp_path / "partitions" / f"split01_{split}.csv").write_text(f"{name}\n")
    write_table(tmp_path / openmic.METADATA, ["sample_key", "artist_id"])
    write_table(tmp_path / openmic.LABELS, ["sample_key", "instrument", "relevance"])
    return tmp_path


def test_a_table_of_one_split_is_read_in_any_order_of_columns(corpus):
    write_table(corpus / "truth_test.csv", ["sample_key", "flute", "bass"], ["000002_0", 1, 0])
    clips, classes = openmic.clips(corpus, corpus)
    assert {each.clip: each.truth for each in clips} == {
        "000001_0": {},
        "000002_0": {"bass": 0, "flute": 1},
    }


@pytest.mark.parametrize(
    "header, row, message",
    [
        (["sample_key", "bass"], ["000001_0", 1], "flute"),
        (["sample_key", "bass", "flute"], ["000001_0", 1, 0.5], "line 2"),
        (["sample_key", "bass", "flute"], ["000009_0", 1, 0], "000009_0"),
    ],
)
def test_a_wrong_table_is_refused(header, row, message, corpus):
    write_table(corpus / "truth.csv", header, row)
    with pytest.raises(ManifestError, match=rf"truth\.csv.*{message}"):
        openmic.clips(corpus, corpus)


def test_own_data_may_have_a_second_table(tmp_path):
    header = ["path", "split", "bass", "flute"]
    rows = [["a.wav", "train", 1, 0], ["b.wav", "train", 1, 0], ["c.wav", "test", 1, 0]]
    write_table(tmp_path / "songs.csv", header, *rows)
    write_table(tmp_path / "songs.truth.csv", ["path", "flute", "bass"], ["c.wav", 1, 1])
    read = custom.read(tmp_path / "songs.csv", tmp_path)
    assert read.problems == []
    assert [each.truth for each in read.clips] == [{}, {}, {"bass": 1, "flute": 1}]
    write_table(tmp_path / "songs.truth.csv", ["path", "flute", "bass"], ["c.wav", 1, ""])
    ((_, reason),) = custom.read(tmp_path / "songs.csv", tmp_path).problems
    assert "songs.truth.csv, row 2" in reason


def test_the_built_in_corpus_writes_what_it_renders(tmp_path):
    jobs = [
        (tmp_path, 0, artist, number)
        for artist in synthetic._artists(0, 200)
        for number in artist.clips
    ]
    synthetic._write_tables(tmp_path, jobs)
    clips, classes = openmic.clips(tmp_path, tmp_path)
    truth = manifest.truth(clips, classes)
    assert truth.shape == (200, 20)
    assert set(truth.sum(axis=1).tolist()) <= {1, 2, 3, 4, 5}
    values, mask = manifest.targets(clips, classes)
    agreement = np.mean((values[mask] >= manifest.PRESENT) == truth[mask])
    assert 0.9 < agreement < 1  # the listeners are fallible
