"""IRMAS: labels, groups and bad input of a scrap in the genuine layout; the built-in corpus."""

import collections
import contextlib
import importlib
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
import soundfile

from ast_repr import manifest
from ast_repr.corpora import irmas, irmas_synthetic
from ast_repr.corpora.remote import Remote
from ast_repr.manifest import Clip, ManifestError

ROOT = Path(__file__).parents[1]
TRAINING = {  # names as in the archive; the label is the folder's
    "cel": ["[cel][cla]0001__1.wav", "008__[cel][nod][cla]0058__1.wav"],
    "cla": ["[cla][cla]0189__2.wav", "[cla][cla]0189__1.wav"],
    "flu": ["[flu][cla]0001__2.wav"],  # with the number of a cello's, as no genuine one
    "gac": ["[gac][pop_roc]0672__1.wav"],
    "gel": ["[gel][pop_roc]0757__1.wav", "[gel][pop_roc]0757__2.wav"],
    "org": ["[org][jaz_blu]0300__1.wav"],
    "pia": ["[pia][cla]1283__1.wav"],
    "sax": ["118__[sax][nod][jaz_blu]1702__3.wav"],
    "tru": ["203__[tru][---][lat_sou]2103__1.wav"],
    "vio": ["[vio][cou_fol]2105__1.wav"],
    "voi": ["[voi][pop_roc]2359__1.wav", "[voi][pop_roc]2360__1.wav"],
}
TEST = {  # {path in the parts: (codes, seconds)}
    "IRMAS-TestingData-Part1/Part1/(02) dont kill the whale-1": (["gel", "voi"], 5.0),
    "IRMAS-TestingData-Part1/Part1/(02) dont kill the whale-12": (["voi"], 6.25),
    "IRMAS-TestingData-Part2/IRTestingData-Part2/Édith - Étude-3": (["cel", "pia", "vio"], 7.0),
    "IRMAS-TestingData-Part3/Part3/07 - Take 5-2": (["sax"], 5.0),
}
EQUAL = ("gac/[gac][pop_roc]0672__1", "gel/[gel][pop_roc]0757__1")  # the same sound


def write_wav(path, seed, seconds=3.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * 8_000), 2))
    soundfile.write(path, sound, 8_000, subtype="PCM_16")


@pytest.fixture
def root(tmp_path):
    """A scrap of IRMAS; one name's .wav is decomposed (NFD), its .txt composed (NFC)."""
    root = tmp_path / "IRMAS"
    seeds = {}
    for code, names in TRAINING.items():
        for name in names:
            seed = seeds.setdefault(name, len(seeds))
            if name == "[gel][pop_roc]0757__1.wav":
                seed = seeds["[gac][pop_roc]0672__1.wav"]
            write_wav(root / irmas.TRAIN / code / name, seed)
    (root / irmas.TRAIN / "README.txt").write_text("IRMAS")
    for number, (name, (codes, seconds)) in enumerate(TEST.items()):
        write_wav(root / (unicodedata.normalize("NFD", name) + ".wav"), 100 + number, seconds)
        text = "".join(f"{code}\t\n" for code in codes)
        (root / (unicodedata.normalize("NFC", name) + ".txt")).write_bytes(text.encode())
    return root


def read(root):
    clips, classes = irmas.clips(root, root)
    hashed = manifest.with_hashes(root, clips)
    return {clip.clip: clip for clip in irmas.join_copies(hashed)}, classes


def present(clip):
    return {name for name, relevance in clip.labels.items() if relevance}


def test_labels_are_the_folders_and_those_of_the_text_files(root):
    clips, classes = read(root)
    assert len(classes) == 11
    assert all(clip.labels.keys() == set(classes) for clip in clips.values())
    labels = {name: present(clip) for name, clip in clips.items()}
    assert labels["cel/[cel][cla]0001__1"] == {"cello"}
    assert labels["cla/[cla][cla]0189__2"] == {"clarinet"}
    assert labels["pia/[pia][cla]1283__1"] == {"piano"}
    assert labels["tru/203__[tru][---][lat_sou]2103__1"] == {"trumpet"}
    assert labels["test/(02) dont kill the whale-1"] == {"electric_guitar", "voice"}
    assert labels["test/Édith - Étude-3"] == {"cello", "piano", "violin"}
    assert len(clips) == sum(map(len, TRAINING.values())) + len(TEST)


def test_a_training_excerpt_lasts_three_seconds_and_a_test_excerpt_as_long_as_it_is(root):
    clips, _ = read(root)
    lengths = {name: clip.seconds for name, clip in clips.items() if clip.split == "test"}
    assert lengths == {f"test/{Path(name).name}": seconds for name, (_, seconds) in TEST.items()}
    assert {clip.seconds for clip in clips.values() if clip.split == "train"} == {3.0}


def test_groups_are_recordings_joined_by_number_and_by_equal_sound(root):
    clips, _ = read(root)
    groups = collections.defaultdict(set)
    for name, clip in clips.items():
        groups[clip.group].add(name)
    joined = {frozenset(names) for names in groups.values() if len(names) > 1}
    assert joined == {
        frozenset({"cel/[cel][cla]0001__1", "flu/[flu][cla]0001__2"}),
        frozenset({"cla/[cla][cla]0189__1", "cla/[cla][cla]0189__2"}),
        frozenset({*EQUAL, "gel/[gel][pop_roc]0757__2"}),
        frozenset({"test/(02) dont kill the whale-1", "test/(02) dont kill the whale-12"}),
    }


def test_equal_excerpts_with_different_labels_get_both(root):
    clips, _ = read(root)
    for name in EQUAL:
        assert present(clips[name]) == {"acoustic_guitar", "electric_guitar"}
    assert present(clips["gel/[gel][pop_roc]0757__2"]) == {"electric_guitar"}


def test_groups_are_joined_through_others():
    def clip(name, group, sha256):
        return Clip(name, group, name, 0.0, "train", {"a": 0.0}, sha256)

    pairs = [("1", "x"), ("2", "y"), ("2", "x"), ("3", "z"), ("4", "z"), ("3", "y"), ("5", "w")]
    clips = [clip(f"{i}", group, sha256) for i, (group, sha256) in enumerate(pairs)]
    assert [each.group for each in irmas.join_copies(clips)] == [*"111111", "5"]
    untouched = [replace(each, split="test") for each in clips]
    assert irmas.join_copies(untouched) == untouched


def test_names_do_not_depend_on_the_normalisation_on_disk(root):
    before, _ = read(root)
    for path in sorted(root.rglob("*.wav")):
        path.rename(path.with_name(unicodedata.normalize("NFC", path.name)))
    after, _ = read(root)
    assert after.keys() == before.keys()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("rm -r {p}2", "no IRMAS-TestingData-Part2; .*--corpus irmas"),
        ("rm {p}3/Part3/*.txt", r"Take 5-2\.wav: no \.txt"),
        ("rm {p}3/Part3/*.wav", r"Take 5-2\.txt: no \.wav"),
        ("echo gui > '{p}3/Part3/07 - Take 5-2.txt'", r"line 1: unknown instrument 'gui'"),
        ("echo > '{p}3/Part3/07 - Take 5-2.txt'", "no instrument"),
        ("cp -r {p}1/Part1 {p}3/Part3", "is in two parts"),
        ("cp -r IRMAS-TrainingData/cel {p}3", "belongs to IRMAS-TrainingData"),
        ("cp -r {p}1/Part1 IRMAS-TrainingData", "unknown folder 'Part1'"),
        ("rm -r IRMAS-TrainingData/voi", "no excerpts of voi"),
        ("mv IRMAS-TrainingData/voi IRMAS-TrainingData/voice", "unknown folder 'voice'"),
        ("mv IRMAS-TrainingData/pia/* IRMAS-TrainingData/pia/x.wav", "no recording number"),
        ("rm -r {p}3/* && mkdir {p}3/Part3", "no excerpts; expected pairs"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(root, damage, message):
    command = damage.format(p="IRMAS-TestingData-Part")
    helpers.start(["sh", "-c", command], cwd=root).wait()
    with pytest.raises(ManifestError, match=message):
        irmas.clips(root, root)


def test_counts_of_the_genuine_archives_are_asserted(root):
    clips, _ = read(root)
    with pytest.raises(ManifestError, match=r"'train': 15.*expected IRMAS' .*6705.*2874.*2242"):
        irmas.check_counts(clips.values())


@pytest.fixture
def prepare(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    script = importlib.import_module("prepare")
    return lambda *argv: helpers.call(capsys, script, *argv)


def test_the_stage_prepare_reads_it_and_refuses_a_file_without_audio(root, prepare, tmp_path):
    for code in TRAINING:  # enough groups for a validation split
        for number in range(3):
            path = root / irmas.TRAIN / code / f"[{code}][cla]9{number}{len(code)}0__1.wav"
            write_wav(path, hash((code, number)) % 2**32)
    arguments = ("--corpus", "irmas", "--root", root, "--data", tmp_path / "data")
    code, out, err = prepare(*arguments)
    assert code == 0, err
    assert "test 4 clips of 3 groups" in out
    clips, _ = manifest.read(tmp_path / "data")
    assert {clip.split for clip in clips} == set(manifest.SPLITS)
    assert prepare(*arguments)[1].count("up to date") == 1
    path = next((root / irmas.PARTS[0]).rglob("*whale-1.wav"))
    path.write_bytes(b"")
    code, out, err = prepare(*arguments)
    assert code == 1
    assert "whale-1.wav" in out
    assert err.startswith("error: 1 clips have no usable audio")
    code, _, err = prepare(*arguments, "--genuine")
    assert code == 1
    assert "6705" in err


def test_archives_are_fetched_once_and_unpacked_to_what_is_read(root, tmp_path, monkeypatch):
    target = tmp_path / "fetched"
    asked = []

    def download(remote, path):
        asked.append(path.name)
        assert remote.md5
        folder = root / path.stem
        if path.stem == irmas.TRAIN:
            with zipfile.ZipFile(path, "w") as file:
                for part in sorted(folder.rglob("*.wav")):
                    file.write(part, part.relative_to(root))
        else:
            with zipfile.ZipFile(path, "w") as file:
                for part in sorted(folder.rglob("*.*")):
                    file.write(part, part.relative_to(folder))
        return path

    monkeypatch.setattr(irmas, "download", download)
    monkeypatch.setattr(irmas, "size_on_server", lambda remote, path: 10)
    assert irmas.size_to_download(target) == 40
    irmas.fetch(target)
    irmas.fetch(target)
    assert len(asked) == 4
    assert irmas.size_to_download(target) == 0
    assert irmas.is_unpacked(target)
    expected, _ = read(root)
    fetched, _ = read(target)
    assert fetched.keys() == expected.keys()
    assert isinstance(irmas.ARCHIVES[irmas.TRAIN], Remote)


@pytest.fixture
def built_in(tmp_path, monkeypatch):
    """The built-in corpus of a few recordings, with noise in place of music."""

    def write_noise(job):
        root, _, number, excerpt = job
        for file in excerpt.files:
            write_wav(root / file, number + len(file), excerpt.seconds)

    class InThisProcess(contextlib.nullcontext):
        map = staticmethod(map)

    monkeypatch.setattr(irmas_synthetic, "_render", write_noise)
    monkeypatch.setattr(irmas_synthetic.processes, "pool", lambda nj: InThisProcess())
    monkeypatch.setattr(InThisProcess, "__enter__", lambda pool: pool)
    irmas_synthetic.make(tmp_path, train=12, test=3)
    return tmp_path


def test_the_built_in_corpus_is_read_by_the_same_code(built_in):
    clips, _ = read(built_in)
    train = [clip for clip in clips.values() if clip.split == "train"]
    test = [clip for clip in clips.values() if clip.split == "test"]
    assert len(train) == 36
    assert len({clip.group for clip in train}) == 12
    assert all(len(present(clip)) == 1 for clip in train)
    assert len(test) == 12
    assert len({clip.group for clip in test}) == 3
    assert all(1 <= len(present(clip)) <= 5 and 5 <= clip.seconds <= 20 for clip in test)
    for clip in clips.values():
        sounding = {name for name, value in clip.truth.items() if value}
        assert present(clip) <= sounding
    lines = next(built_in.rglob("*.txt")).read_bytes().splitlines(keepends=True)
    assert all(line[3:] == b"\t\n" for line in lines)


def test_finished_excerpts_are_not_rendered_again(built_in):
    path = next((built_in / irmas.TRAIN).rglob("*0003__2.wav"))
    before = {other: other.stat().st_mtime_ns for other in built_in.rglob("*.wav")}
    path.unlink()
    irmas_synthetic.make(built_in, train=12, test=3)
    changed = {other for other, stamp in before.items() if other.stat().st_mtime_ns != stamp}
    recording = path.name.removesuffix("__2.wav")
    assert {other.name for other in changed} == {f"{recording}__{k}.wav" for k in (1, 2, 3)}


def test_a_recording_is_rendered_to_the_same_bytes_at_the_stated_length(tmp_path):
    excerpt = irmas_synthetic._training_excerpts(0, 0)
    contents = []
    for name in ("a", "b"):
        irmas_synthetic._render((tmp_path / name, 0, 0, excerpt))
        contents.append([(tmp_path / name / file).read_bytes() for file in excerpt.files])
    assert contents[0] == contents[1]
    for file in excerpt.files:
        sound, rate = soundfile.read(tmp_path / "a" / file)
        assert len(sound) == 3 * rate
        assert np.abs(sound).max() > 0.01


def test_the_predominant_instrument_of_a_built_in_excerpt_is_the_loudest():
    counts = collections.Counter()
    for number in range(110):
        excerpt = irmas_synthetic._training_excerpts(0, number)
        levels = dict(excerpt.parts)
        counts.update(excerpt.predominant)
        assert levels.pop(excerpt.predominant[0]) > max(levels.values(), default=-99) + 6
        for test in irmas_synthetic._test_excerpts(0, 500 + number):
            parts = dict(test.parts)
            loud = [parts.pop(code) for code in test.predominant]
            assert min(loud) > max(parts.values(), default=-99)
    assert set(counts.values()) == {10}
    assert counts.keys() == irmas.CODES.keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "irmas_synthetic"),
        ("--data-root {root}", "irmas"),
        ("--corpus irmas --data-root {root}", "irmas"),
    ],
)
def test_the_stage_fetch_chooses_a_corpus(words, expected, root, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    fetch = importlib.import_module("fetch")
    given = words.format(root=root).split() or ["--corpus", "irmas_synthetic"]
    if "--corpus" not in given:
        given += ["--corpus", "irmas_synthetic"]  # the default of the recipe
    args = fetch.parse().parse_args(["--data", "data", *given])
    assert fetch.choose_corpus(args) == expected
    name, folder = fetch.fetch_corpus(expected, args)
    if expected == "irmas":
        assert (name, folder) == ("IRMAS", root)
    else:
        assert (name, folder) == (expected, Path("data") / expected / "irmas")
