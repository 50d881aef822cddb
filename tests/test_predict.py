"""The command predict: any audio, its output formats, and files that cannot be read."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import call
from make_audio import encode

from ast_repr import audio, checkpoint, inference, pretrained, run_folder
from ast_repr.commands import common, predict
from ast_repr.run_folder import RunFolder
from ast_repr.viewer import predictions, timeline

SOURCE = Path(audio.__file__).parents[1]
RATE = audio.SAMPLE_RATE
CLASSES = ["bass", "flute", "voice"]  # of the run folder
JSONL = ("--format", "jsonl", "--threshold", 0)
rng = np.random.default_rng


def noise(seconds, rate=RATE, channels=1, seed=0):
    return rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Small pictures: their drawing takes most of the time."""
    monkeypatch.setattr(timeline, "DPI", 30)


@pytest.fixture
def tell(run, capsys):
    """Function from arguments to the command's (exit code, output, error output)."""

    def tell(*arguments, model=run[0]):
        options = ["--device", "cpu"]
        if model is not None:
            options += ["--model", model]
        return call(capsys, predict, *arguments, *options)

    return tell


def rows(text):
    """{file: {instrument: probability}} of the output with JSONL; empty for failed files."""
    found = {}
    for line in text.splitlines():
        record = json.loads(line)
        instruments = record.get("instruments", [])
        found[record["file"]] = {item["instrument"]: item["probability"] for item in instruments}
    return found


@pytest.fixture
def assert_predicted(run):
    """Function that compares the row of a file with the model's output for its waveform."""
    model = inference.load(run[0])

    def check(found, path, waveform=None):
        waveform = audio.decode(path) if waveform is None else waveform
        values = [found[str(path)][name] for name in CLASSES]
        np.testing.assert_allclose(values, model(waveform[None])[0], rtol=0, atol=1e-4)

    return check


def test_every_rate_channel_count_and_format_is_read(tell, assert_predicted, tmp_path):
    folder = tmp_path / "music"
    (folder / "deeper").mkdir(parents=True)
    for i, rate in enumerate((8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000)):
        subtype = ("PCM_16", "PCM_24", "FLOAT")[i % 3]
        soundfile.write(folder / f"{rate}.wav", noise(0.7, rate, i % 6 + 1, i), rate, subtype)
        soundfile.write(folder / f"{rate}.flac", noise(0.7, rate, 6 - i % 6, i), rate, "PCM_24")
    soundfile.write(folder / "below.OGG", noise(3, 44_100, 2), 44_100, format="OGG")
    soundfile.write(folder / "deeper" / "one.mp3", noise(10.5, 48_000, 2), 48_000)
    codecs = {"a.m4a": "aac", "b.caf": "pcm_s16le", "c.mp2": "mp2", "d.wv": "wavpack"}
    for name, codec in codecs.items():
        encode(folder / "deeper" / name, noise(1, 22_050, 2), 22_050, codec)
    (folder / "cover.jpg").write_bytes(b"no audio")
    (folder / "._one.mp3").write_bytes(b"metadata of a Mac")
    code, out, err = tell(folder, *JSONL)
    found = rows(out)
    assert code == 0 and len(found) == 20 and "1 file " in err and "cover.jpg" in err
    for path in found:
        assert_predicted(found, path)


def test_short_silent_and_loud_files_are_read(tell, assert_predicted, tmp_path):
    sounds = {
        "sample": [0.5],
        "short": noise(0.3)[:, 0],
        "ten": noise(10)[:, 0],
        "silent": np.zeros(RATE),
        "loud": np.append(9 * noise(1)[:, 0], 18.0),
    }
    paths = {name: tmp_path / f"{name}.wav" for name in sounds}
    for name, samples in sounds.items():
        soundfile.write(paths[name], np.asarray(samples), RATE, subtype="FLOAT")
    code, out, err = tell(*paths.values(), *JSONL)
    assert code == 0
    assert [line for line in err.splitlines() if "warning" in line and "loud.wav" in line]
    for name, samples in sounds.items():
        scale = np.float32(max(1.0, np.abs(samples).max()))
        assert_predicted(rows(out), paths[name], np.float32(samples) / scale)
    assert set(rows(out)[str(paths["silent"])].values()) == {0.0}


def test_silence_has_no_instruments_and_is_marked(tell, tmp_path):
    sound = np.concatenate([noise(10), np.zeros((10 * RATE, 1)), noise(10)])
    soundfile.write(tmp_path / "partly.wav", sound, RATE)
    soundfile.write(tmp_path / "silent.flac", np.zeros((12 * RATE, 2)), RATE)
    paths = [tmp_path / "partly.wav", tmp_path / "silent.flac"]
    _, out, _ = tell(*paths, "--format", "json", "--timeline", "--threshold", 0.01)
    partly, silent = json.loads(out)
    assert [window["silent"] for window in partly["timeline"]] == [False, True, False]
    assert set(partly["timeline"][1]["probabilities"].values()) == {0.0}
    assert (partly["silent"], silent["silent"], silent["instruments"]) == (False, True, [])
    assert partly["instruments"]
    _, out, _ = tell(*paths, "--timeline", "--threshold", 0.01)
    assert "silent.flac (0:12)\n  silent, no instrument\n" in out
    assert out.count("silent\n") == 3  # windows
    _, out, _ = tell(*paths, "--format", "csv", "--threshold", 0.01)
    table = list(csv.DictReader(io.StringIO(out)))
    assert [row["silent"] for row in table] == ["0"] * (len(table) - 1) + ["1"]
    assert (table[-1]["file"], table[-1]["instrument"]) == (str(paths[1]), "")
    tell(*paths, "--plot", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_files_that_cannot_be_read_are_listed_and_the_others_predicted(
    tell, assert_predicted, tmp_path
):
    good = tmp_path / "good.wav"
    soundfile.write(good, noise(0.5), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    late = noise(25)
    late[-1] = np.inf
    soundfile.write(tmp_path / "late.wav", late, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "zero.mp3").write_bytes(b"")
    (tmp_path / "link.mp3").symlink_to(tmp_path / "gone.mp3")
    (tmp_path / "folder").mkdir()
    bad = {
        "empty.wav": "no samples",
        "nan.wav": "not finite",
        "late.wav": "not finite",
        "text.wav": "not readable as audio",
        "zero.mp3": "0 bytes",
        "link.mp3": "a link to a file that is not there",
        "folder": "a folder, expected an audio file",
        "absent.wav": "no such audio file",
        "*.none": "no such audio file",
    }
    names = list(bad)
    given = [tmp_path / name for name in [*names[:4], "good.wav", *names[4:]]]
    code, out, err = tell(*given, *JSONL)
    assert code == 1 and list(rows(out)) == list(map(str, given))
    assert_predicted(rows(out), good)
    listed = {
        line.strip().partition(": ")[0]: line for line in err.splitlines() if line.startswith("  ")
    }
    for name, reason in bad.items():
        assert reason in listed[str(tmp_path / name)] and rows(out)[str(tmp_path / name)] == {}
    assert (
        err.splitlines()[-1]
        == "error: 9 of 10 files cannot be read, as listed above; the others are done"
    )
    assert tell(tmp_path / "text.wav", "--format", "csv")[:2] == (
        1,
        "file,instrument,probability,silent\n",
    )


def test_files_decoded_in_other_processes_give_the_same(tell, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(25), RATE)
    soundfile.write(tmp_path / "b.wav", 3 * noise(1), RATE, subtype="FLOAT")
    (tmp_path / "c.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "d.wav", noise(12), RATE)
    options = [tmp_path, "--format", "jsonl", "--timeline"]
    assert tell(*options, "--nj", 2) == tell(*options)


@pytest.mark.parametrize("kind", ["ogg", "mp3"])
def test_truncated_files_are_read_as_far_as_they_go(kind, tell, assert_predicted, tmp_path):
    path = tmp_path / f"cut.{kind}"
    soundfile.write(path, noise(14, 22_050), 22_050)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, err = tell(path, *JSONL)
    assert code == 0 and 3 < json.loads(out)["seconds"] < 12
    (line,) = [line for line in err.splitlines() if "warning" in line]
    assert f"cut.{kind}: damaged" in line
    waveform = audio.decode(path, warn=[].append, damaged=True)
    assert_predicted(rows(out), path, waveform)


NAMES = [
    " two  spaces.wav",
    'it\'s "quoted".wav',
    "new\nline.wav",
    "音楽 ümlaut.wav",
    "$a_{b$.wav",
    "[x]*.wav",
    os.fsdecode(b"latin\xe9.wav"),
]


def test_names_may_be_anything(tell, tmp_path):
    for i, name in enumerate(NAMES):
        soundfile.write(os.fsencode(tmp_path / name), noise(0.2, seed=i), RATE, format="WAV")
    code, out, _ = tell(tmp_path, "--format", "json", "--threshold", 0)
    assert code == 0 and sorted(one["file"] for one in json.loads(out)) == sorted(
        str(tmp_path / name) for name in NAMES
    )
    _, out, _ = tell(tmp_path, "--format", "csv", "--threshold", 0)
    told = {row["file"].rpartition("/")[2] for row in csv.DictReader(io.StringIO(out, newline=""))}
    assert told == {*NAMES} - {NAMES[2], NAMES[-1]} | {"new\\nline.wav", "latin\\udce9.wav"}
    _, out, _ = tell(tmp_path)
    assert f"{tmp_path}/new\\nline.wav (0:00.2)\n" in out and f"{NAMES[3]} (0:00.2)\n" in out
    code, _, err = tell(
        *(tmp_path / NAMES[i] for i in (2, 3, 4, 6)), "--plot", tmp_path / "pictures"
    )
    assert (
        code == 0
        and "glyph" not in err.lower()
        and len(list((tmp_path / "pictures").glob("*.png"))) == 4
    )


def test_a_pattern_finds_files_and_each_file_is_predicted_once(tell, tmp_path, monkeypatch):
    for name in ("b.wav", "a.wav", "c.flac"):
        soundfile.write(tmp_path / name, noise(0.1), RATE)
    monkeypatch.chdir(tmp_path)
    _, out, _ = tell("*.wav", "c.flac", tmp_path, "./a.wav", "a.wav", "--format", "jsonl")
    assert list(rows(out)) == ["a.wav", "b.wav", "c.flac"]


def test_shards_predict_each_file_once_and_a_new_file_moves_no_other(tell, tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(6)]
    for path in paths:
        soundfile.write(path, noise(0.1), RATE)
    shards = [tell(tmp_path, *JSONL, "--shard", f"{index}/2")[1] for index in (1, 2)]
    assert [json.loads(line)["file"] for line in sorted("".join(shards).splitlines())] == list(
        map(str, paths)
    )
    new = tmp_path / "0 new.wav"
    soundfile.write(new, noise(0.1), RATE)
    first = rows(tell(tmp_path, *JSONL, "--shard", "1/2")[1])
    assert first.keys() - {str(new)} == rows(shards[0]).keys()


@pytest.mark.slow
def test_shards_on_two_workers_of_dask_give_the_same_lines(tell, run, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `dask`")
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", noise(1, seed=i), RATE)
    script = SOURCE.parent / "egs" / "dask_predict.py"
    options = ["--shards", "2", "--output", tmp_path / "lines"]
    predict_options = [tmp_path, "--threshold", "0", "--model", run[0], "--device", "cpu"]
    subprocess.run(
        [sys.executable, script, *options, "--", *predict_options],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])},
    )
    files = (tmp_path / "lines").glob("*.jsonl")
    lines = "".join(file.read_text() for file in files)
    expected = rows(tell(tmp_path, *JSONL)[1])
    assert len(lines.splitlines()) == len(expected) == 3
    for file, probabilities in rows(lines).items():
        assert probabilities == pytest.approx(expected[file], abs=1e-3)


def test_shards_name_their_pictures_differently(tell, tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "song.wav", noise(0.1), RATE)
    for shard in ("1/2", "2/2"):
        assert tell(tmp_path, "--shard", shard, "--plot", tmp_path / "pictures")[0] == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_links_are_followed_and_loops_end(tell, tmp_path):
    music, album = tmp_path / "music", tmp_path / "album"
    (music / "below").mkdir(parents=True)
    album.mkdir()
    soundfile.write(album / "one.wav", noise(0.1), RATE)
    soundfile.write(music / "two.wav", noise(0.1), RATE)
    (music / "link").symlink_to(album, target_is_directory=True)
    (music / "again.wav").symlink_to(album / "one.wav")
    (music / "below" / "up").symlink_to(music, target_is_directory=True)
    (album / "back").symlink_to(music, target_is_directory=True)
    (music / ".hidden").mkdir()
    soundfile.write(music / ".hidden" / "no.wav", noise(0.1), RATE)
    code, out, _ = tell(music, music, album, "--format", "jsonl")
    assert code == 0
    assert sorted(map(os.path.realpath, rows(out))) == [
        str(album / "one.wav"),
        str(music / "two.wav"),
    ]


def test_other_files_of_folders_are_counted_and_a_named_one_is_read(
    tell, assert_predicted, tmp_path
):
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.jpg").write_bytes(b"picture")
    soundfile.write(folder / "song.wav", noise(0.5), RATE)
    (folder / "song.wav").rename(folder / "song.dat")
    soundfile.write(folder / "a.wav", noise(0.1), RATE)
    code, out, err = tell(folder, *JSONL)
    assert code == 0 and list(rows(out)) == [str(folder / "a.wav")]
    (line,) = [line for line in err.splitlines() if "skipped" in line]
    assert "13 files" in line and "00.jpg" in line
    code, out, err = tell(folder / "song.dat", folder, *JSONL)
    assert code == 0 and len(rows(out)) == 2 and "12 files" in err
    assert_predicted(rows(out), folder / "song.dat")


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_hop_and_aggregate(aggregate, run, tell, tmp_path):
    path = tmp_path / "song.wav"
    swell = np.linspace(0, 1, 21 * RATE)[:, None] ** 4
    soundfile.write(path, noise(21) * swell, RATE, subtype="FLOAT")
    options = ["--hop", 4.5, "--aggregate", aggregate, "--timeline", "--threshold", 0]
    code, out, _ = tell(path, *options, "--format", "json")
    (song,) = json.loads(out)
    assert code == 0 and song["seconds"] == 21
    model = inference.load(run[0])
    waveform = audio.decode(path)
    expected = []
    for window, start in zip(song["timeline"], (0, 4.5, 9, 11), strict=True):
        assert (window["start_s"], window["end_s"]) == (start, start + 10)
        assert list(window["probabilities"]) == CLASSES
        first = round(start * RATE)
        expected.append(model(waveform[None, first : first + 10 * RATE])[0])
        values = list(window["probabilities"].values())
        np.testing.assert_allclose(values, expected[-1], rtol=0, atol=1e-5)
    whole = getattr(np, aggregate)(expected, axis=0)
    order = np.argsort(-whole)
    assert [item["instrument"] for item in song["instruments"]] == [CLASSES[i] for i in order]
    values = [item["probability"] for item in song["instruments"]]
    np.testing.assert_allclose(values, whole[order], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_hour_is_read_to_its_end(run, tell, tmp_path):
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16") as file:
        for minute in range(61):
            file.write(noise(60, 8_000, seed=minute) * (minute + 1) / 61)
    code, out, _ = tell(path, "--format", "json", "--timeline", "--hop", 30)
    (found,) = json.loads(out)
    assert code == 0 and found["seconds"] == 3660 and len(found["timeline"]) == 123
    # Decoded from a second earlier on, so that the resampler has settled.
    expected = inference.load(run[0])(audio.decode(path, 3649)[None, RATE:])[0]
    last = found["timeline"][-1]
    assert last["start_s"] == 3650
    np.testing.assert_allclose(list(last["probabilities"].values()), expected, rtol=0, atol=2e-3)


# Output formats, of predictions made by hand.
SONGS = [
    inference.FilePrediction(
        "a.wav",
        12.5,
        np.array([[0, 10], [2.5, 12.5]]),
        np.array([[0.2, 0.8, 0.5], [0.1, 0.6, 0.7]]),
        np.array([0.15, 0.7, 0.6]),
        np.array([False, False]),
    ),
    inference.FilePrediction("b\n.wav", error="broken"),
    inference.FilePrediction(
        "c, c.wav",
        1.0,
        np.array([[0, 1.0]]),
        np.array([[0.1, 0.2, 0.49999999]]),
        np.array([0.1, 0.2, 0.49999999]),
        np.array([False]),
    ),
]


def written(form, **view):
    return "".join(
        predictions.FORMATS[form](
            SONGS, predictions.DisplayOptions(CLASSES, **({"threshold": 0.5} | view))
        )
    )


def test_table():
    assert written("table") == (
        "a.wav (0:12.5)\n  0.70  flute\n  0.60  voice\nb\\n.wav\n  failed\n"
        "c, c.wav (0:01)\n  nothing from 0.5 on; the most likely: voice (0.50)\n"
    )
    assert written("table", top=1, timeline=True).splitlines()[:4] == [
        "a.wav (0:12.5)",
        "  0.70  flute",
        "       0:00 -    0:10  flute 0.80",
        "     0:02.5 -  0:12.5  voice 0.70",
    ]


def test_json_and_its_lines():
    lines = [json.loads(line) for line in written("jsonl").splitlines()]
    assert (
        lines
        == json.loads(written("json"))
        == [
            {
                "file": "a.wav",
                "seconds": 12.5,
                "silent": False,
                "instruments": [
                    {"instrument": "flute", "probability": 0.7},
                    {"instrument": "voice", "probability": 0.6},
                ],
            },
            {"file": "b\n.wav", "error": "broken"},
            {"file": "c, c.wav", "seconds": 1.0, "silent": False, "instruments": []},
        ]
    )
    assert json.loads(written("json", timeline=True))[0]["timeline"][1] == {
        "start_s": 2.5,
        "end_s": 12.5,
        "silent": False,
        "probabilities": {"bass": 0.1, "flute": 0.6, "voice": 0.7},
    }
    assert "".join(predictions.json_list([], predictions.DisplayOptions(CLASSES, 0.5))) == "[]\n"


def test_csv():
    header = "file,instrument,probability,silent"
    assert written("csv") == f"{header}\na.wav,flute,0.7,0\na.wav,voice,0.6,0\n"
    told = list(csv.reader(io.StringIO(written("csv", timeline=True))))
    assert (
        told[0] == ["file", "start_s", "end_s", "instrument", "probability", "silent"]
        and len(told) == 1 + 2 * 3 + 3
    )
    assert told[4] == ["a.wav", "2.5", "12.5", "bass", "0.1", "0"] and told[-1] == [
        "c, c.wav",
        "0",
        "1",
        "voice",
        "0.5",
        "0",
    ]


def test_a_file_is_written_whole_or_not_at_all(tell, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(0.1), RATE)
    code, out, _ = tell(
        tmp_path / "a.wav",
        "--format",
        "csv",
        "--threshold",
        0,
        "--output",
        tmp_path / "made" / "found.csv",
    )
    text = (tmp_path / "made" / "found.csv").read_text()
    assert code == 0 and out == "" and text.count("\n") == 1 + len(CLASSES)

    def interrupted(self, *_, **__):
        yield inference.FilePrediction("a.wav", error="first")
        raise KeyboardInterrupt

    monkeypatch.setattr(inference.Predictor, "predict", interrupted)
    again = ["--output", tmp_path / "made" / "found.csv", "--overwrite"]
    code, _, err = tell(tmp_path / "a.wav", *again)
    assert code == 130 and "interrupted" in err
    assert (tmp_path / "made" / "found.csv").read_text() == text and len(
        list((tmp_path / "made").iterdir())
    ) == 1


def test_a_pipe_is_written_to_and_not_replaced(tell, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.1), RATE)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert tell(tmp_path / "a.wav", "--format", "csv", "--threshold", 0, "--output", pipe)[0] == 0
    assert pipe.is_fifo() and os.read(reader, 9999).startswith(b"file,instrument,probability,")
    os.close(reader)
    assert tell(tmp_path / "a.wav", "--output", tmp_path)[2].endswith(
        f"error: {tmp_path}: Is a directory\n"
    )


def test_existing_files_are_replaced_only_on_request(tell, tmp_path):
    song, table = tmp_path / "song.wav", tmp_path / "found.csv"
    picture = tmp_path / "song.instruments.png"
    soundfile.write(song, noise(0.1), RATE)
    for path in (table, picture, tmp_path / "song.png"):
        path.write_text("mine")
    for option, value, named in (("--output", table, table), ("--plot", tmp_path, picture)):
        code, out, err = tell(song, option, value)
        assert code == 1 and out == "" and err.count("\n") == 1
        assert str(named) in err and "--overwrite" in err and named.read_text() == "mine"
    assert tell(song, "--output", table, "--plot", tmp_path, "--overwrite")[0] == 0
    assert table.read_text() != "mine" and picture.read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "song.png").read_text() == "mine"  # cover art, not a picture of ours


def test_an_interrupted_output_is_resumed(tell, tmp_path, monkeypatch):
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", noise(0.1), RATE)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    output = tmp_path / "new" / "songs.jsonl"
    resumed = [tmp_path, "--format", "jsonl", "--output", output, "--resume"]
    predict_all = inference.Predictor.predict

    def interrupted(self, paths, *args, **options):
        yield from predict_all(self, paths[:2], *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inference.Predictor, "predict", interrupted)
        assert tell(*resumed)[0] == 130
    lines = output.read_text().splitlines()
    assert len(lines) == 2
    output.write_text("\n".join([*lines, '{"fil']))
    code, _, err = tell(*resumed)
    assert code == 1 and "resumed: 2 of 4" in err and "1 of 4 files cannot be read" in err
    assert output.read_text().splitlines()[:2] == lines
    assert [json.loads(line)["file"][-5:] for line in output.open()] == [
        "a.wav",
        "b.wav",
        "c.wav",
        "d.wav",
    ]
    whole = output.read_text()
    assert tell(*resumed)[0] == 1 and output.read_text() == whole


@pytest.mark.parametrize("text", ["mine", "mine\n", "[1]\n", '{"file": 3}\n', '{"file": "mine"}\n'])
def test_other_content_is_not_resumed(text, tell, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.1), RATE)
    output = tmp_path / "songs.jsonl"
    output.write_text(text)
    code, _, err = tell(tmp_path, "--format", "jsonl", "--output", output, "--resume")
    assert code == 1 and f"error: {output}: line 1 " in err and output.read_text() == text


def test_lines_of_other_options_and_of_a_running_command_are_not_resumed(tell, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.1), RATE)
    output = tmp_path / "songs.jsonl"
    resumed = [tmp_path, "--format", "jsonl", "--output", output, "--resume"]
    assert tell(*resumed)[0] == tell(*resumed, "--hop", 10)[0] == 0  # the default
    text = output.read_text()
    settings = json.loads(text)["settings"]
    code, _, err = tell(*resumed, "--threshold", 0.9)
    assert code == 1 and f"has settings {settings}, expected " in err
    with output.open("a") as file:
        predict.lock(file)
        code, _, err = tell(*resumed)
    assert code == 1 and f"error: {output}: another process" in err
    assert output.read_text() == text


@pytest.mark.parametrize("other_name", [False, True])
def test_a_song_is_never_replaced(other_name, tell, tmp_path):
    song = tmp_path / "song.wav"
    soundfile.write(song, noise(0.1), RATE)
    before = song.read_bytes()
    output = song
    if other_name:
        output = tmp_path / "found.csv"
        output.hardlink_to(song)
    code, _, err = tell(tmp_path / "song.wav", "--output", output, "--overwrite")
    assert code == 1 and str(output) in err and song.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required: PATH"),
        (["x", "--hop", "0"], "--hop"),
        (["x", "--threshold", "2"], "--threshold"),
        (["x", "--top", "0"], "--top"),
        (["x", "--batch-size", "1.5"], "--batch-size"),
        (["x", "--hop", "nan"], "--hop"),
        (["x", "--shard", "0/4"], "--shard: found '0/4', expected I/N"),
        (["x", "--shard", "5/4"], "--shard"),
        (["x", "--shard", "1"], "--shard"),
        (["x", "--resume", "--output", "y"], "--format jsonl"),
        (["x", "--resume", "--format", "jsonl"], "--output FILE"),
        (["x", "--resume", "--format", "jsonl", "--output", "y", "--overwrite"], "--overwrite"),
        (["x", "--resume", "--format", "jsonl", "--output", "/dev/null"], "/dev/null"),
        (["x", "--format", "cvs"], "did you mean 'csv'"),
        (["x", "--timelin"], "did you mean '--timeline'"),
    ],
)
def test_usage_errors_are_named(arguments, expected, tell):
    code, out, err = tell(*arguments)
    assert code == 2 and out == "" and expected in err and err.count("\n") == 1


def finish(folder, state, value=0.5, **results):
    """Let `folder` be that of a finished run with this value on validation."""
    checkpoint.save(folder / "best.valid.macro_f1.pt", state)
    selection = {"split": "valid", "metric": "macro_f1", "mode": "max", "epoch": 1, "value": value}
    known = {"corpus": "synthetic", "protocol": "clean", "feature": "logmel"}
    made = known | {"selection": selection} | results
    RunFolder(folder).write_results(made)


def test_the_best_finished_run_on_validation_is_taken(run, tmp_path):
    state = checkpoint.load(run[0] / "best.valid.macro_f1.pt")
    exp = tmp_path / "egs" / "openmic" / "exp"
    finish(exp / "synthetic" / "ast_unet" / "seed0", state, 0.61)
    finish(exp / "synthetic" / "ast_linear" / "seed0", state, 0.60, metrics={"macro_f1": 0.9})
    finish(exp / "synthetic" / "forest" / "seed0", state, 0.9, feature="vggish")
    finish(exp / "songs" / "ast_unet" / "seed0", state, 0.9, corpus="songs")
    finish(exp / "synthetic-paper" / "ast_unet" / "seed0", state, 0.9, protocol="paper")
    on_test = {"split": "test", "metric": "macro_f1", "mode": "max", "value": 0.9}
    finish(exp / "synthetic" / "ast_cnn" / "seed0", state, selection=on_test)
    (exp / "synthetic" / "not_scored" / "seed0").mkdir(parents=True)
    warned = []
    best, model = run_folder.load_best(run_folder.finished([exp]), inference.load, warned.append)
    assert best.folder.path == exp / "synthetic" / "ast_unet" / "seed0"
    assert "0.610 on validation" in best.describe() and model.classes and not warned
    finish(exp / "openmic" / "ast_linear" / "seed0", state, 0.3, corpus="openmic")
    best, _ = run_folder.load_best(run_folder.finished([exp]), inference.load, warned.append)
    assert best.folder.path == exp / "openmic" / "ast_linear" / "seed0"


def test_the_shipped_model_is_used_without_a_name(tell, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.1), RATE)
    code, out, err = tell(tmp_path / "a.wav", model=None)
    assert code == 0 and "a.wav" in out
    first, summary = err.splitlines()
    assert pretrained.DEFAULT_MODEL in first and "--model" in first and "rendered music" in summary
    # As of a variable that is not set: the default would be another model than was meant.
    assert tell(tmp_path / "a.wav", model="")[0] == 1


def test_a_checkout_is_found_from_within_and_from_its_package(tmp_path, monkeypatch):
    here = common.find_checkout()
    assert (here / "egs" / "recipe.sh").is_file()
    (tmp_path / "egs" / "openmic").mkdir(parents=True)
    (tmp_path / "egs" / "recipe.sh").touch()
    package = tmp_path / "site-packages" / "ast_repr" / "commands" / "common.py"
    monkeypatch.setattr(common, "__file__", str(package.parent / "lib" / "x" / "common.py"))
    monkeypatch.chdir(tmp_path / "egs" / "openmic")
    assert common.find_checkout() == tmp_path
    monkeypatch.chdir("/")
    assert common.find_checkout() is None


def test_a_run_that_cannot_be_loaded_is_passed_over(run, tmp_path):
    state = checkpoint.load(run[0] / "best.valid.macro_f1.pt")
    exp = tmp_path / "egs" / "openmic" / "exp" / "synthetic"
    finish(exp / "ast_unet" / "seed0", state, 0.5)
    spec = state["about"]["spec"] | {"reprogrammer": {"name": "gone.Gain"}}
    lost = state | {"about": state["about"] | {"spec": spec}}
    finish(exp / "mine" / "seed0", lost, 0.9)
    finish(exp / "cut" / "seed0", state, 0.8)
    (exp / "cut" / "seed0" / "best.valid.macro_f1.pt").write_bytes(b"PK")
    warned = []
    best, _ = run_folder.load_best(run_folder.finished([exp]), inference.load, warned.append)
    passed, cut = warned
    assert "mine/seed0: skipped" in passed and "gone.Gain" in passed
    assert "cut/seed0: skipped" in cut and best.folder.path == exp / "ast_unet" / "seed0"


def test_a_long_log_mel_keeps_means_in_few_columns():
    found, frames = timeline.LongLogMel(), np.arange(5000.0)[:, None] * [1, -1]
    for start in range(0, 5000, 500):
        found.add(start / 100, start / 100 + 5.02, frames[start : start + 500])
    assert found.step == 4 and found.columns.shape == (1250, 2)
    np.testing.assert_allclose(found.columns, frames.reshape(1250, 4, 2).mean(1))
    gap = timeline.LongLogMel()
    gap.add(0, 0.05, np.ones((9, 2)))  # five frames' time holds three whole ones
    gap.add(0.06, 0.09, np.full((9, 2), 3.0))
    np.testing.assert_array_equal(gap.columns[:, 0], [1, 1, 1, np.nan, np.nan, np.nan, 3])


def test_a_picture_shows_the_windows_where_they_are():
    log_mel = timeline.LongLogMel()
    log_mel.add(0, 10, rng(0).normal(size=(998, 32)))
    figure = timeline.draw(SONGS[0], predictions.DisplayOptions(CLASSES, 0.65), log_mel)
    top, bottom = figure.axes[:2]
    assert timeline.edges(SONGS[0]).tolist() == [0, 6.25, 12.5]
    assert [(label.get_text(), label.get_fontweight()) for label in top.get_yticklabels()] == [
        ("flute  0.70", "bold"),
        ("voice  0.60", "normal"),
        ("bass  0.15", "normal"),
    ]
    np.testing.assert_array_equal(
        top.collections[0].get_array(), [[0.8, 0.6], [0.5, 0.7], [0.2, 0.1]]
    )
    assert bottom.get_xlim() == (0, 12.5) and figure.get_suptitle() == "a.wav"


def test_pictures_of_songs_of_one_name_are_kept_apart(tell, tmp_path):
    for name in ("one/song.wav", "other.wav", "two/song.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.full(1 + 9 * ("two" in name), 0.1), RATE)
    assert tell(tmp_path, "--plot", tmp_path / "pictures")[0] == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "other.instruments.png",
        "song-1.instruments.png",
        "song.instruments.png",
    ]
