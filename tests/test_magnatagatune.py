"""MagnaTagATune: tags, splits and bad input of a few clips in its layout; the built-in corpus."""

import contextlib
import csv
import importlib
import io
import zipfile
from collections import Counter
from pathlib import Path

import helpers
import numpy as np
import pytest
import soundfile

from ast_repr import audio, choices, features
from ast_repr.corpora import magnatagatune, magnatagatune_synthetic
from ast_repr.corpora.magnatagatune import BROKEN, TAGS
from ast_repr.data import windows
from ast_repr.manifest import ManifestError

ROOT = Path(__file__).parents[1]
OTHERS = ["no piano", "clasical", "drum"]  # some of the 138 further tags
CLIPS = {  # {mp3_path: tags}
    "0/american_bach_soloists-masses-01-kyrie__allegro-146-175.mp3": ["classical", "strings"],
    "1/vito_paternoster-cd1bach_cello_suites-02-suite_i-0-29.mp3": ["cello", "solo", "slow"],
    "b/dj_markitos-unreachable_destinations-03-interior-59-88.mp3": ["techno", "no vocals"],
    "b/dj_markitos-unreachable_destinations-03-interior-88-117.mp3": ["drum"],
    BROKEN[0]: ["female vocal", "guitar"],
    BROKEN[1]: [],
    BROKEN[2]: ["harpsichord"],
    "c/jade_leary-and_come_the_sirens-04-like_mercury-0-29.mp3": ["rock", "male vocal"],
    "c/jade_leary-and_come_the_sirens-04-like_mercury-29-58.mp3": ["no piano"],
    "f/american_bach_soloists-j_s__bach_solo_cantatas-01-bwv54__i_aria-30-59.mp3": ["violin"],
    "e/steven_devine-portrait-01-lesson_1_in_g_major_prelude-0-29.mp3": [],
}
COLUMNS = ["clip_id", *OTHERS[:1], *sorted(TAGS), *OTHERS[1:], "mp3_path"]


def write_table(path, rows):
    """Write a table as the genuine one: separated by tabs, each cell in quotation marks."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, (name, tags) in enumerate(rows.items()):
        values = [int(column in tags) for column in COLUMNS[1:-1]]
        writer.writerow([7 * number + 2, *values, name])
    path.write_text(text.getvalue())


@pytest.fixture(scope="module")
def mp3():
    """29 seconds of noise in MagnaTagATune's format."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(29 * 16_000)
    file = io.BytesIO()
    soundfile.write(file, noise, 16_000, format="MP3", compression_level=0.85)
    return file.getvalue()


@pytest.fixture
def root(tmp_path, mp3):
    root = tmp_path / "MTAT"
    for name in CLIPS:
        path = root / "mp3" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name in BROKEN else mp3)
    write_table(root / magnatagatune.ANNOTATIONS, CLIPS)
    return root


def read(root, split="clean"):
    clips, _, _ = magnatagatune.clips(root, root, split)
    return {clip.clip: clip for clip in clips}


def test_the_fifty_tags_are_read_in_order_and_all_are_observed(root):
    clips, classes, _ = magnatagatune.clips(root, root, "full")
    assert classes == TAGS and len(set(TAGS)) == 50
    assert (TAGS[0], TAGS[27], TAGS[49]) == ("guitar", "male vocal", "choral")
    for clip in clips:
        given = {name for name, value in clip.labels.items() if value}
        assert list(clip.labels) == TAGS
        assert given == set(CLIPS[f"{clip.clip}.mp3"]) - set(OTHERS)
        assert (root / clip.audio).is_file()
        assert (clip.start_s, clip.seconds) == (0, 29)


def test_folders_are_splits_and_albums_are_groups(root):
    clips = read(root, "full")
    splits = {clip.clip[0]: clip.split for clip in clips.values()}
    assert splits == dict(zip("01bcef", [*3 * ["train"], "valid", *2 * ["test"]], strict=True))
    groups = [clip.group for clip in clips.values() if clip.clip.startswith("b/")]
    assert len(groups) == 2 and len(set(groups)) == 1
    assert len({clip.group for clip in clips.values()}) == 6


def test_clean_leaves_out_clips_without_a_tag_and_artist_those_of_known_artists(root):
    clean = read(root)
    assert read(root, "full").keys() - clean.keys() == {
        "b/dj_markitos-unreachable_destinations-03-interior-88-117",
        "c/jade_leary-and_come_the_sirens-04-like_mercury-29-58",
        "e/steven_devine-portrait-01-lesson_1_in_g_major_prelude-0-29",
    }
    assert clean.keys() - read(root, "artist").keys() == {
        "0/american_bach_soloists-masses-01-kyrie__allegro-146-175"
    }


def test_the_three_broken_files_are_left_out(root):
    clips, _, broken = magnatagatune.clips(root, root, "full")
    assert broken == list(BROKEN)
    assert len(clips) == len(CLIPS) - 3


def test_the_audio_may_lie_beside_the_table(root):
    expected = read(root)
    for folder in (root / "mp3").iterdir():
        folder.rename(root / folder.name)
    (root / "mp3").rmdir()
    assert read(root).keys() == expected.keys()
    assert all((root / clip.audio).is_file() for clip in read(root).values())


def test_truth_is_read_from_a_table_of_the_same_form(root):
    truth = {name: [*tags, "weird"] for name, tags in CLIPS.items()}
    write_table(root / magnatagatune.TRUTH, truth)
    for clip in read(root).values():
        assert clip.truth["weird"] == 1 and clip.labels["weird"] == 0
        assert all(clip.truth[name] >= value for name, value in clip.labels.items())
    del truth[BROKEN[0]]
    write_table(root / magnatagatune.TRUTH, truth)
    with pytest.raises(ManifestError, match="other clips"):
        read(root)


def test_a_clip_is_cut_into_windows_the_last_of_which_ends_with_it(root):
    clip = next(iter(read(root).values()))
    window = features.window(features.build("logmel"))
    starts = [part.start_s for part in windows.of_clip(clip, window)]
    assert starts == [0, 10, 19]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"violin"\t', '"violine"\t', "no column violin;"),
        ('"mp3_path"', '"path"', "no column mp3_path;"),
        ('"0"\t"0"', '"0"\t"2"', "line 2: a tag is neither 0 nor 1"),
        ('"0/amer', '"g/amer', "line 2: found mp3_path 'g/amer"),
        ('"0/amer', '"../0/amer', r"found mp3_path '\.\./0/amer"),
        ("-146-175", "-146", "line 2: found mp3_path"),
        ("-88-117", "-59-88", "line 5: a second b/dj_markitos"),
        ("guitar", 'gui"tar', "quotation mark"),
    ],
)
def test_bad_tables_are_refused_with_their_line(root, old, new, message):
    path = root / magnatagatune.ANNOTATIONS
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ManifestError, match=message):
        read(root)


def test_a_folder_without_the_table_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"annotations_final\.csv: missing; expected"):
        read(tmp_path)
    (tmp_path / magnatagatune.ANNOTATIONS).write_text("\t".join(COLUMNS))
    with pytest.raises(ManifestError, match="no clips"):
        read(tmp_path)


def test_counts_of_the_genuine_files_are_asserted(root):
    assert magnatagatune.COUNTS.keys() == set(choices.TAG_SPLITS)
    assert sum(magnatagatune.COUNTS["full"].values()) == 25_863 - len(BROKEN)
    with pytest.raises(ManifestError, match=r"'train': 3, .*expected .*15247.*1529.*4332"):
        magnatagatune.check_counts(read(root).values(), "clean")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    return importlib.import_module


def test_the_stage_prepare_reads_a_split_and_refuses_damaged_audio(root, script, tmp_path, capsys):
    def prepare(*words):
        arguments = ("--corpus", "magnatagatune", "--root", root, "--data", tmp_path / "data")
        return helpers.call(capsys, script("prepare"), *arguments, *words)

    code, out, err = prepare()
    assert code == 0, err
    assert out.count("left out: 3 files that are empty") == 1 and "norine_braun" in out
    assert "train 3 clips of 3 groups; valid 1 clips of 1 groups; test 1 clips" in out
    code, out, _ = prepare("--split", "full")
    assert code == 0 and "train 4 clips" in out
    code, _, err = prepare("--genuine")
    assert code == 1 and err.count("\n") == 1 and "15247" in err
    path = next((root / "mp3" / "f").iterdir())
    path.write_bytes(path.read_bytes()[:60_000])
    code, out, err = prepare()
    assert code == 1 and path.name in out
    assert err.startswith("error: 1 clips have no usable audio")


def test_the_parts_are_fetched_once_joined_and_unpacked(
    root, script, tmp_path, capsys, monkeypatch
):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((root / "mp3").rglob("*.mp3")):
            file.write(path, path.relative_to(root / "mp3"))
    data = archive.getvalue()
    contents = [(root / magnatagatune.ANNOTATIONS).read_bytes()]
    contents += [data[:1000], data[1000:5000], data[5000:]]
    asked = []

    def download(remote, path):
        assert remote.md5 and remote.url.endswith(f"/{path.name}")
        asked.append(path.name)
        path.write_bytes(contents[list(magnatagatune.FILES).index(path.name)])
        return path

    monkeypatch.setattr(magnatagatune, "download", download)
    fetch = script("fetch")
    words = ("--data", tmp_path / "data", "--corpus", "magnatagatune", "--backbone", fetch.SHIPPED)
    code, out, err = helpers.call(capsys, fetch, *words)
    assert code == 0 and "MagnaTagATune: 3.0 GB to download (CC BY-NC-SA" in err
    target = tmp_path / "data" / "mtat"
    assert out.split("\t")[:3] == ["magnatagatune", "magnatagatune", str(target)]
    code, out, err = helpers.call(capsys, fetch, *words, "--split", "full")
    assert out.split("\t")[:3] == ["magnatagatune", "magnatagatune-full", str(target)]
    assert "download" not in err
    assert asked == list(magnatagatune.FILES)
    assert read(target).keys() == read(root).keys()
    assert not (target / "mp3.zip").exists()


def test_a_copy_on_disk_is_named_after_its_folder_and_split(root, script, tmp_path, capsys):
    words = ("--data", tmp_path / "data", "--corpus", "magnatagatune", "--data-root", root)
    _, out, _ = helpers.call(capsys, script("fetch"), *words, "--split", "artist")
    assert out.split("\t")[:3] == ["magnatagatune", "MTAT-artist", str(root)]
    code, _, err = helpers.call(capsys, script("fetch"), *words[:-1], tmp_path / "nowhere")
    assert code == 1 and "MagnaTagATune's layout" in err


@pytest.fixture
def built_in(tmp_path, monkeypatch, mp3):
    """The built-in corpus of 34 albums, with the same noise in place of each clip."""

    def write_noise(job):
        root, _, piece = job
        path = root / magnatagatune.AUDIO / piece.mp3_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mp3)

    class InThisProcess(contextlib.nullcontext):
        map = staticmethod(map)

        def __enter__(self):
            return self

    monkeypatch.setattr(magnatagatune_synthetic, "_render", write_noise)
    monkeypatch.setattr(magnatagatune_synthetic.processes, "pool", lambda *_: InThisProcess())
    magnatagatune_synthetic.make(tmp_path, albums=34)
    return tmp_path


def test_the_built_in_corpus_is_read_by_the_same_code(built_in):
    clips = read(built_in, "full")
    assert Counter(clip.split for clip in clips.values()) == {"train": 240, "valid": 40, "test": 60}
    assert {path.name for path in (built_in / "mp3").iterdir()} == set("0123456789abcdef")
    assert {clip.seconds for clip in clips.values()} == {10}
    assert read(built_in).keys() == clips.keys()  # each clip has a tag
    for clip in clips.values():
        assert (built_in / clip.audio).is_file()
        assert all(clip.truth[name] >= value for name, value in clip.labels.items())
    named = sum(sum(clip.labels.values()) for clip in clips.values())
    hold = sum(sum(clip.truth.values()) for clip in clips.values())
    assert 0.5 < named / hold < 0.7


def test_some_artists_of_the_built_in_corpus_are_in_several_splits(built_in):
    whole = Counter(clip.split for clip in read(built_in).values())
    disjoint = Counter(clip.split for clip in read(built_in, "artist").values())
    assert disjoint["train"] < whole["train"]
    assert (disjoint["valid"], disjoint["test"]) == (whole["valid"], whole["test"])


def test_finished_clips_are_not_rendered_again(built_in):
    before = {path: path.stat().st_mtime_ns for path in built_in.rglob("*.mp3")}
    lost = min(before)
    lost.unlink()
    magnatagatune_synthetic.make(built_in, albums=34)
    changed = {path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {lost}


def test_every_tag_holds_for_clips_of_each_split_of_the_built_in_corpus():
    counts = {split: Counter() for split in ("train", "valid", "test")}
    for album in magnatagatune_synthetic._albums(0, magnatagatune_synthetic.ALBUMS):
        for number in range(10 * album.number, 10 * album.number + 10):
            piece = magnatagatune_synthetic._draw_piece(0, album, number)
            split = magnatagatune.SPLIT_OF_FOLDER[album.folder]
            counts[split].update(magnatagatune_synthetic.tags(piece))
    for split, least in (("train", 60), ("valid", 10), ("test", 10)):
        assert all(counts[split][tag] >= least for tag in TAGS), split


def piece(style, parts, bpm=100.0, peak_db=-10.0):
    album = magnatagatune_synthetic.Album(0, "0", 0, style)
    return magnatagatune_synthetic.Piece(0, album, dict.fromkeys(parts, 0.0), bpm, peak_db)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (
            piece("metal", ["distorted guitar", "bass", "drums", "man"], 150, -1),
            "metal,rock,guitar,drums,fast,loud,male,man,male vocal,male voice,vocal,vocals,voice,"
            "singing",
        ),
        (
            piece("classical", ["cello"], 60, -25),
            "classical,classic,cello,strings,solo,slow,soft,quiet,no vocals,no vocal,no voice",
        ),
        (
            piece("choral", ["choir"], 80, -16),
            "classical,classic,choir,choral,solo,vocal,vocals,voice,singing",
        ),
    ],
)
def test_tags_follow_from_style_parts_tempo_and_level(drawn, expected):
    assert magnatagatune_synthetic.tags(drawn) == set(expected.split(","))


def test_a_clip_is_rendered_to_the_same_bytes_in_magnatagatunes_format(tmp_path):
    drawn = piece("indian", ["sitar", "flute"], peak_db=-6.0)
    contents = []
    for name in ("a", "b"):
        magnatagatune_synthetic._render((tmp_path / name, 0, drawn))
        path = tmp_path / name / "mp3" / drawn.mp3_path
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) * 8 / 10 == pytest.approx(32_000, rel=0.02)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels) == (16_000, 1)
    waveform = audio.decode(path)
    assert len(waveform) == 160_000
    assert 20 * np.log10(np.abs(waveform).max()) == pytest.approx(-6, abs=1)


@pytest.mark.parametrize("split", choices.TAG_SPLITS)
def test_the_recipe_uses_the_built_in_corpus_unless_there_is_a_copy(split, root, script, capsys):
    words = ("--data", "data", "--corpus", "magnatagatune_synthetic", "--split", split)
    args = script("fetch").parse().parse_args(list(words))
    assert script("fetch").choose_corpus(args) == "magnatagatune_synthetic"
    ending = "" if split == "clean" else f"-{split}"
    assert script("fetch").fetch_corpus("magnatagatune_synthetic", args) == (
        f"magnatagatune_synthetic{ending}",
        Path("data/magnatagatune_synthetic/magnatagatune"),
    )
    args = script("fetch").parse().parse_args([*words, "--data-root", str(root)])
    assert script("fetch").choose_corpus(args) == "magnatagatune"
    assert "MagnaTagATune, 3 GB to download" in capsys.readouterr().err
