"""The manifest keeps its clips, refuses invalid ones, and splits by artist.

It knows its audio by content, and a damaged or edited manifest from a whole one.
"""

import json
import os
import random
import subprocess
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


def test_a_written_manifest_is_read_back(tmp_path):
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
        "sha256": "",
        "sidecars": {},
        "truth": {},
        "seconds": 10,
    }


def test_labels_that_are_absent_are_masked():
    targets, mask = manifest.targets(TWO, CLASSES)
    assert targets.dtype == np.float32
    assert mask.dtype == bool
    assert targets.tolist() == [[0.5, 0.0, 1.0], [0.0, 0.25, 0.0]]
    assert mask.tolist() == [[True, True, True], [False, True, False]]


def test_no_manifest_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(ManifestError, match="run the stage `prepare`"):
        manifest.read(tmp_path)


def sealed(folder):
    """True if `sha256sum`, an independent oracle, verifies the files."""
    line = ["sha256sum", "-c", "--quiet", "manifest.sha256"]
    return subprocess.run(line, cwd=folder, capture_output=True).returncode == 0


@pytest.mark.parametrize("line", ["{", '{"clip": "a"}', "[]", "3", '{"clip": "a", "tempo": 3}'])
def test_an_unreadable_line_is_named_by_its_number(line, tmp_path):
    manifest.write(tmp_path, TWO, CLASSES)
    with open(tmp_path / "manifest.jsonl", "a") as file:
        file.write(line + "\n")
    with open(tmp_path / "manifest.sha256", "w") as seal:
        files = ("classes.txt", "manifest.jsonl")
        subprocess.run(["sha256sum", *files], cwd=tmp_path, stdout=seal, check=True)
    with pytest.raises(ManifestError, match=r"manifest\.jsonl, line 3: not a clip"):
        manifest.read(tmp_path)


def edit_class(folder):
    (folder / "classes.txt").write_text("bass\nviolin\nflute\n")


def edit_label(folder):
    text = (folder / "manifest.jsonl").read_text()
    (folder / "manifest.jsonl").write_text(text.replace("0.25", "0.75"))


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "change", [edit_class, edit_label, remove("classes.txt"), remove("manifest.sha256")]
)
def test_an_edited_manifest_is_refused(change, tmp_path):
    manifest.write(tmp_path, TWO, CLASSES)
    assert sealed(tmp_path)
    change(tmp_path)
    assert not sealed(tmp_path)
    with pytest.raises(ManifestError, match="manifest.jsonl: damaged.*`prepare` again"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["manifest.jsonl", "classes.txt", "manifest.sha256"])
def test_no_flipped_bit_goes_unnoticed(name, tmp_path):
    manifest.write(tmp_path, TWO, CLASSES)
    whole, rng = (tmp_path / name).read_bytes(), random.Random(0)
    for _ in range(100):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(ManifestError, match="`prepare` again"):
            manifest.read(tmp_path)


def test_the_identity_of_a_manifest_covers_all_but_the_paths_of_its_audio():
    own = manifest.content_sha256(TWO, CLASSES)
    moved = [replace(clip, audio="/elsewhere/" + clip.audio) for clip in TWO]
    assert manifest.content_sha256(moved, CLASSES) == own
    others = [
        (TWO, [CLASSES[1], CLASSES[0], CLASSES[2]]),
        (TWO[::-1], CLASSES),
        ([TWO[0], replace(TWO[1], sha256="of other audio")], CLASSES),
        ([TWO[0], replace(TWO[1], sidecars={"vggish": "of another file"})], CLASSES),
        ([TWO[0], replace(TWO[1], start_s=3.6)], CLASSES),
        ([TWO[0], replace(TWO[1], split="valid")], CLASSES),
        ([TWO[0], replace(TWO[1], labels={"flute": 0.26})], CLASSES),
    ]
    assert own not in {manifest.content_sha256(*other) for other in others}


@pytest.fixture
def corpus(tmp_path):
    """A manifest's folder, and two clips whose files lie in OpenMIC's layout, one with VGGish."""
    for name in ("audio/a/a.ogg", "audio/b/b.ogg", "vggish/b/b.json"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    (tmp_path / "data").mkdir()
    clips = [
        replace(clip, audio=f"../root/audio/{clip.clip}/{clip.clip}.ogg", start_s=3.5)
        for clip in TWO
    ]
    return tmp_path / "data", clips


def sha256sum(path):
    return subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]


def test_clips_get_the_sha256_of_their_files(corpus):
    data, clips = corpus
    root = data.parent / "root"
    one, two = manifest.with_hashes(data, clips)
    assert one == replace(clips[0], sha256=sha256sum(root / "audio/a/a.ogg"))
    assert two.sha256 == sha256sum(root / "audio/b/b.ogg")
    assert two.sidecars == {"vggish": sha256sum(root / "vggish/b/b.json")}
    assert two.identity("logmel") == f"{two.sha256}@3.5"
    assert two.identity("vggish") == f"{two.sidecars['vggish']}@3.5"
    path, sha256 = two.source(data, "vggish")
    assert path.read_bytes() == b"vggish/b/b.json"
    assert sha256 == two.sidecars["vggish"]


def test_audio_that_was_replaced_by_a_file_of_the_same_size_and_time_is_noticed(corpus):
    data, clips = corpus
    path = data.parent / "root/audio/a/a.ogg"
    before = manifest.with_hashes(data, clips)
    times = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = manifest.with_hashes(data, clips)
    assert after[0].sha256 == sha256sum(path) != before[0].sha256
    assert after[1] == before[1]


def test_files_that_nothing_has_touched_are_not_hashed_again(corpus, monkeypatch):
    data, clips = corpus
    hashed, of_file = [], manifest.identity.of_file
    monkeypatch.setattr(
        manifest.identity, "of_file", lambda path: hashed.append(path.name) or of_file(path)
    )
    young = manifest.with_hashes(data, clips)
    assert len(hashed) == 3
    assert len(set(hashed)) == 3
    assert manifest.with_hashes(data, clips) == young
    assert len(hashed) == 6  # young files may still change
    monkeypatch.setattr(manifest.identity, "SETTLED_NS", -(10**12))
    del hashed[:]
    assert manifest.with_hashes(data, clips) == manifest.with_hashes(data, clips) == young
    assert len(hashed) == 3
    cache = data / manifest.HASHES
    cache.write_text(cache.read_text().replace(young[0].sha256, young[1].sha256))
    assert manifest.with_hashes(data, clips) == young
    assert len(hashed) == 6  # the cache is damaged
    manifest.forget_hashes(data)
    assert manifest.with_hashes(data, clips) == young
    assert len(hashed) == 9


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
def test_a_manifest_that_would_spoil_an_experiment_is_refused(changes, message):
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
    assert all(len(result) == 1 for result in groups.values())
    counts = Counter(clip.split for clip in split)
    assert counts["test"] == 25
    assert fraction * 150 <= counts["valid"] < fraction * 150 + 5
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
