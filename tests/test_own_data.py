"""Own data as people have it: tables of spreadsheets and scripts, missing labels, audio twice."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import run_script
from make_audio import mp3_with_cover, piped_flac

import prepare
from ast_repr import audio, manifest
from ast_repr.corpora import custom, inspection, quality
from ast_repr.manifest import Clip, ManifestError

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("guitar", "drums")
# (group, guitar, drums) of sixteen clips in eight groups.
LABELS = [
    ("g0", "0", ""),
    ("g0", "1", "0"),
    ("g1", "0", "1"),
    ("g1", "1", ""),
    ("g2", "0", "0"),
    ("g2", "1", "0"),
    ("g3", "0", ""),
    ("g3", "1", "1"),
    ("g4", "0", "0"),
    ("g4", "1", ""),
    ("g5", "0", "1"),
    ("g5", "1", "1"),
    ("g6", "0", ""),
    ("g6", "1", "0"),
    ("g7", "0", "1"),
    ("g7", "1", ""),
]
HEADER = ("path", "group", *CLASSES)
ROWS = [(f"clips/s{k:02d}.wav", *row) for k, row in enumerate(LABELS)]


@pytest.fixture
def folder(tmp_path):
    """A folder for a table, with sixteen clips of a second below clips/."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(0)
    for path, *_ in ROWS:
        soundfile.write(tmp_path / path, 0.01 * noise.standard_normal(8_000), 8_000)
    return tmp_path


def lines(rows=ROWS, header=HEADER, delimiter=","):
    return [delimiter.join(cells) for cells in (header, *rows)]


def write(folder, text):
    path = folder / "songs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder, text):
    return custom.read(write(folder, text), folder / "data")


def indexed(rows, header=HEADER):
    """The table as pandas writes it, with its index."""
    return lines([(str(k), *row) for k, row in enumerate(rows)], ("", *header))


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("\n".join(["sep=;", *lines(delimiter=";")]), 1),
        ("\r\n".join(['"sep=;"', *lines(delimiter=";")]), 1),
        ("\n".join(["sep=\t", *lines(delimiter="\t")]), 1),
        ("\n".join(["sep=|", *lines(delimiter="|")]), 1),
        ("\n".join(["", "", *lines()]), 2),
        ("\n".join(["\t\t", "", *lines(delimiter="\t")]), 2),
        ("\n".join([";;;", "", *lines(delimiter=";")]), 2),
        ("\ufeff" + "\n".join(["", "sep=;", *lines(delimiter=";")]), 2),
        ("\ufeff" + "\r\n".join(lines()), 0),
        ("\n".join(indexed(ROWS)), 0),
        ("\n".join(indexed(ROWS)).replace(",path", "Unnamed: 0,path", 1), 0),
    ],
    ids=[
        "sep",
        "quoted sep",
        "sep tab",
        "sep bar",
        "blank",
        "blank tabs",
        "blank cells",
        "mark, blank and sep",
        "mark",
        "index",
        "named index",
    ],
)
def test_a_table_is_the_same_however_it_begins(text, moved, folder):
    plain = read(folder, "\n".join(lines()))
    table = read(folder, text)
    assert plain.problems == table.problems == []
    assert (table.clips, table.classes) == (plain.clips, plain.classes)
    assert table.rows == {name: row + moved for name, row in plain.rows.items()}
    assert len(table.notes) == ("0,clips" in text)


def test_blank_rows_between_others_are_skipped(folder):
    table = read(folder, "\n\n\n" + "\n\n".join(lines()))
    assert table.problems == []
    assert len(table.clips) == 16
    assert table.rows["clips/s00.wav"] == 6  # as an editor counts


def test_the_index_of_a_filtered_table_is_recognised(folder, capsys):
    rows = [(str(3 * k + 7), *row) for k, row in enumerate(ROWS)]
    path = write(folder, "\n".join(lines(rows, ("", *HEADER))))
    assert run_script(prepare, "--check", path) == 0
    assert "note: column 1" in capsys.readouterr().out


@pytest.mark.parametrize("cells", [("x", "y"), ("1", "1"), ("", "0")])
def test_an_unnamed_column_of_something_else_is_a_problem(cells, folder):
    rows = [(cells[k % 2], *row) for k, row in enumerate(ROWS)]
    table = read(folder, "\n".join(lines(rows, ("", *HEADER))))
    assert table.notes == []
    assert "column 1, which has no name" in table.problems[0][1]


@pytest.mark.parametrize("row", [2, 9, 17])
@pytest.mark.parametrize("sep", [[], ["sep=;"]])
def test_an_open_quote_is_named_by_file_and_row(sep, row, folder):
    text = [*sep, *lines(delimiter=";" if sep else ",")]
    row += len(sep)
    text[row - 1] = '"' + text[row - 1]
    with pytest.raises(ManifestError, match=rf"songs.csv, row {row}: .*quot") as caught:
        read(folder, "\n".join(text) + "\n")
    assert "\n" not in str(caught.value)


def test_backslashes_are_slashes_unless_a_file_has_them(folder):
    plain = read(folder, "\n".join(lines()))
    table = read(folder, "\n".join(lines()).replace("clips/", "clips\\"))
    assert table.problems == []
    assert table.clips == plain.clips
    (folder / "clips\\s00.wav").write_bytes((folder / "clips/s01.wav").read_bytes())
    assert (
        read(folder, "\n".join(lines()).replace("clips/", "clips\\"))
        .clips[0]
        .audio.endswith("clips\\s00.wav")
    )


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_accents_may_be_composed_or_not(slash, in_table, on_disk, folder):
    name = "clips/cafés/café.wav"
    path = folder / unicodedata.normalize(on_disk, name)
    path.parent.mkdir()
    (folder / "clips/s00.wav").rename(path)
    text = "\n".join(lines()).replace("clips/s00.wav", name.replace("/", slash))
    table = read(folder, unicodedata.normalize(in_table, text))
    assert table.problems == []
    assert inspection.unusable_audio(folder / "data", table.clips) == {}
    assert table.clips[0].clip == unicodedata.normalize(on_disk, name)


def test_two_spellings_of_one_file_are_one_clip_twice(folder):
    table = read(folder, "\n".join([*lines(), "clips\\s00.wav,g0,1,1"]))
    assert [(row, reason[:18]) for row, reason in table.problems] == [(18, "the path and start")]


def split_rows(unlabelled):
    """The rows with a split in place of a group; clips of `unlabelled` have no labels."""
    splits = ["train"] * 9 + ["valid"] * 3 + ["test"] * 4
    return [
        (path, split, *(("", "") if split == unlabelled else labels))
        for (path, _, *labels), split in zip(ROWS, splits, strict=True)
    ]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_without_labels_is_refused_before_training(split, folder, capsys):
    header = ("path", "split", *CLASSES)
    path = write(folder, "\n".join(lines(split_rows(split), header)))
    stage = ("--corpus", "custom", "--root", path, "--data", folder / "data")
    for options in (("--check", path), stage):
        assert run_script(prepare, *options) == 1
        out, err = capsys.readouterr()
        assert f"no clip in {split} has a label" in out
        assert str(path) in err
    assert not (folder / "data" / "manifest.jsonl").exists()
    write(folder, "\n".join(lines(split_rows(None), header)))
    assert run_script(prepare, "--check", path) == 0
    assert run_script(prepare, *stage) == 0


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_manifest_with_such_a_split_is_refused(split):
    clips = [
        Clip("a", "a", "a.wav", 0.0, "train", {"x": 1.0}),
        Clip("b", "b", "b.wav", 0.0, "valid", {"x": 1.0}),
        Clip("c", "c", "c.wav", 0.0, "test", {"x": 0.0}),
    ]
    manifest.check(clips, ["x"])
    clips = [
        Clip(clip.clip, clip.group, clip.audio, 0.0, clip.split, {})
        if clip.split == split
        else clip
        for clip in clips
    ]
    with pytest.raises(ManifestError, match=f"no clip in {split} has a label"):
        manifest.check(clips, ["x"])


@pytest.mark.parametrize(
    ("write_file", "name"), [(mp3_with_cover, "art.mp3"), (piped_flac, "piped.flac")]
)
def test_a_start_is_judged_by_the_sound_and_not_by_a_wrong_header(write_file, name, folder, capsys):
    """The cover makes FFmpeg estimate more than 20 s; the FLAC file states no length at all."""
    write_file(folder / "clips" / name, 12)
    for start_s, code in ((5, 0), (20, 1)):
        rows = [(path, "", *labels) for path, _, *labels in ROWS]
        rows.append((f"clips/{name}", str(start_s), "1", "1"))
        path = write(folder, "\n".join(lines(rows, ("path", "start", *CLASSES))))
        assert run_script(prepare, "--check", path) == code
        assert (f"row {len(rows) + 1}: " in capsys.readouterr().out) == bool(code)
    assert audio.clip(folder / "clips" / name, 5).shape == (160_000,)
    with pytest.raises(audio.AudioError, match=name):
        audio.clip(folder / "clips" / name, 20)


def labelled(split, present, absent, name="x"):
    return [
        Clip(f"{split}{k}{name}", f"{split}{k}", "a.wav", 0.0, split, {name: float(k < present)})
        for k in range(present + absent)
    ]


@pytest.mark.parametrize(
    ("present", "absent", "warned"),
    [(5, 5, False), (9, 4, True), (4, 9, True), (0, 9, True), (9, 0, True), (0, 0, True)],
)
@pytest.mark.parametrize("split", manifest.SPLITS)
def test_few_labels_of_a_kind_in_a_split_are_warned_of(split, present, absent, warned):
    clips = labelled(split, present, absent)
    for other in manifest.SPLITS:
        if other != split:
            clips += labelled(other, 7, 7)
    warnings = quality.label_warnings(clips, ["x"])
    assert [warning.split()[0] for warning in warnings] == [split] * warned
    assert all(f"x ({present} present, {absent} absent)" in warning for warning in warnings)


def test_classes_share_a_warning_and_those_without_a_score_have_another():
    clips = [clip for split in manifest.SPLITS for clip in labelled(split, 7, 7)]
    clips += (
        labelled("train", 7, 7, "y") + labelled("valid", 7, 7, "y") + labelled("test", 1, 9, "y")
    )
    clips += (
        labelled("train", 7, 7, "z") + labelled("valid", 7, 7, "z") + labelled("test", 0, 9, "z")
    )
    one_sided, few = quality.label_warnings(clips, ["x", "y", "z"])
    assert "z (0 present, 9 absent)" in one_sided
    assert "left out of every mean" in one_sided
    assert "y (1 present, 9 absent)" in few
    assert "z (" not in few


def test_audio_that_several_groups_share_is_warned_of():
    def clip(name, group, split="train"):
        return Clip(name, group, f"{name}.wav", 0.0, split, {"x": 1.0})

    clips = [clip("a", "g"), clip("b", "g"), clip("c", "h", "test"), clip("d", "i"), clip("e", "j")]
    assert quality.shared_audio_warnings(clips, ["1", "1", "2", "3", "4"]) == []
    assert quality.shared_audio_warnings(clips, [None] * 5) == []
    (warning,) = quality.shared_audio_warnings(clips, ["1", "1", "1", "2", "3"])
    assert "a (train, group g)" in warning
    assert "c (test, group h)" in warning
    assert "one group" in warning
    assert "b (" not in warning


def test_check_and_prepare_warn_of_shared_audio_and_do_not_fail(folder, capsys):
    (folder / "clips" / "copy.wav").write_bytes((folder / "clips" / "s15.wav").read_bytes())
    path = write(folder, "\n".join(lines([*ROWS, ("clips/copy.wav", "gX", "1", "1")])))
    stage = ("--corpus", "custom", "--root", path, "--data", folder / "data")
    for options in (("--check", path), stage):
        assert run_script(prepare, *options) == 0
        out = capsys.readouterr().out
        (warning,) = [line for line in out.splitlines() if "same audio" in line]
        assert "warning: " in warning
        assert "s15.wav" in warning
        assert "copy.wav" in warning
    write(folder, "\n".join(lines([*ROWS, ("clips/copy.wav", "g7", "1", "1")])))
    assert run_script(prepare, "--check", path) == 0
    assert "same audio" not in capsys.readouterr().out


def test_a_damaged_manifest_is_made_again(folder):
    path = write(folder, "\n".join(lines()))
    stage = ("--corpus", "custom", "--root", path, "--data", folder / "data")
    assert run_script(prepare, *stage) == 0
    made = (folder / "data" / "manifest.jsonl").read_bytes()
    (folder / "data" / "manifest.jsonl").write_bytes(made[: len(made) // 2])
    assert run_script(prepare, *stage) == 0
    assert (folder / "data" / "manifest.jsonl").read_bytes() == made


def prepare_in_ascii(*options, **env):
    """The stage as another process, in a locale that knows ASCII alone."""
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [sys.executable, ROOT / "src" / "prepare.py", *options],
        env=os.environ | ascii_alone | env,
        capture_output=True,
        timeout=120,
    )


def test_class_names_are_utf8_in_any_locale(folder):
    path = write(folder, "\n".join(lines(header=("path", "group", "guitarra española", "笛"))))
    done = prepare_in_ascii("--check", path)
    assert done.returncode == 0, done.stderr.decode()
    assert "guitarra española" in done.stdout.decode("utf-8")
    stage = ("--corpus", "custom", "--root", path, "--data", folder / "data")
    assert prepare_in_ascii(*stage).returncode == 0
    made = (folder / "data" / "manifest.jsonl").read_bytes()
    assert manifest.read(folder / "data")[1] == ["guitarra española", "笛"]
    again = prepare_in_ascii(*stage)
    assert again.returncode == 0
    assert b"up to date" in again.stdout
    assert (folder / "data" / "manifest.jsonl").read_bytes() == made


def test_file_names_that_a_locale_cannot_read_get_a_hint(folder):
    (folder / "clips/s00.wav").rename(folder / "clips/café.wav")
    path = write(folder, "\n".join(lines()).replace("s00", "café"))
    done = prepare_in_ascii("--check", path)
    assert done.returncode == 1
    assert "row 2: " in done.stdout.decode()
    assert "PYTHONUTF8=1" in done.stdout.decode()
    assert prepare_in_ascii("--check", path, PYTHONUTF8="1").returncode == 0
