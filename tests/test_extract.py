"""The stage `extract`: parts, interruption, clips without audio, and audio that has changed.

A store is equal however it was made.
"""

import importlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
import soundfile
import torch

from ast_repr import audio, cli, features, manifest
from ast_repr.corpora import inspection
from ast_repr.data import feature_store
from ast_repr.manifest import Clip

ROOT = Path(__file__).parents[1]
OPTIONS = ("--conf-dir", str(ROOT / "egs" / "openmic" / "conf"), "--conf", "ast_linear")
CLIPS, SHARD = 7, 2
BAD = "000002"  # in the second shard


@pytest.fixture
def run(monkeypatch, capsys):
    """(data, options) -> (exit code, output, last line of errors) of the stage, small shards."""
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    monkeypatch.setattr(feature_store, "SHARD_CLIPS", SHARD)
    extract = importlib.import_module("extract")

    def call(data, *options):
        code = 0
        try:
            cli.run(extract.main, extract.parse(), ["--data", str(data), *OPTIONS, *options])
        except SystemExit as left:
            code = left.code
        out, err = capsys.readouterr()
        return code, out, err.rstrip().rpartition("\n")[2]

    return call


def write(folder, clips):
    """A manifest of clips, each a second of one of three sounds."""
    rng = np.random.default_rng(0)
    for name in "xyz":
        soundfile.write(folder / f"{name}.wav", rng.uniform(-0.5, 0.5, (44_100, 2)), 44_100)
    names = {f"{i:06d}": "xyz"[i % 3] + ".wav" for i in range(clips)}
    made = [Clip(clip, clip, path, 0.0, "train", {"a": 1.0}) for clip, path in names.items()]
    manifest.write(folder, manifest.with_hashes(folder, made), ["a"])
    return folder


def rewrite(data, change):
    """Write the manifest again with its clips changed by `change`."""
    clips, classes = manifest.read(data)
    manifest.write(data, change(clips), classes)


def prepare(data):
    """Renew the hashes of the audio files, as the stage `prepare` does."""
    rewrite(data, lambda clips: manifest.with_hashes(data, clips))


def replace_file(path):
    """Other sound of the same size and time in the same place."""
    times, samples = path.stat(), np.random.default_rng(1).uniform(-0.5, 0.5, (44_100, 2))
    soundfile.write(path, samples, 44_100)
    assert path.stat().st_size == times.st_size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def data(tmp_path):
    """Four shards, the last of one clip."""
    return write(tmp_path, CLIPS)


def damage(data, clip):
    """Let the clip's audio be a file that is not there, and would be x.wav if it were."""
    sha256 = manifest.read(data)[0][0].sha256

    def change(clips):
        clips[int(clip)] = replace(clips[int(clip)], audio="bad.wav", sha256=sha256)
        return clips

    rewrite(data, change)
    return data


@pytest.fixture
def damaged(data):
    return damage(data, BAD)


def shards(data):
    return sorted(path.name for path in (data / "features" / "logmel").glob("shard-*.h5"))


def test_machines_share_a_store_by_parts(data, run):
    assert run(data, "--shard", "2/3")[:2] == (0, f"{data}/features/logmel: {SHARD} clips\n")
    assert shards(data) == ["shard-00001.h5"]
    assert run(data, "--shard", "1/3", "--nj", "2")[:2] == (
        0,
        f"{data}/features/logmel: {SHARD + 1} clips\n",
    )
    assert shards(data) == ["shard-00000.h5", "shard-00001.h5", "shard-00003.h5"]
    stamps = {
        name: os.stat(data / "features" / "logmel" / name).st_mtime_ns for name in shards(data)
    }
    assert run(data)[:2] == (0, f"{data}/features/logmel: {CLIPS} clips\n")
    assert {
        name: os.stat(data / "features" / "logmel" / name).st_mtime_ns for name in stamps
    } == stamps
    assert "up to date" in run(data, "--shard", "3/3")[1]
    result = feature_store.Store(data / "features" / "logmel").read(
        [f"{i:06d}" for i in range(CLIPS)]
    )
    feature = features.build("logmel")
    for offset, name in enumerate("xyz"):
        waveform = torch.from_numpy(audio.fit(audio.decode(data / f"{name}.wav")))[None]
        assert (result[offset::3] == feature(waveform)[0].half().numpy()).all()


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "2", "1/0", "1/2/3", "-1/2", "a/b"])
def test_a_part_that_is_none_is_refused(wrong, data, run):
    code, _, err = run(data, f"--shard={wrong}")
    assert code == 2
    assert "--shard: " in err


def test_a_clip_without_audio_is_reported_and_left_out_only_if_allowed(damaged, run):
    code, _, err = run(damaged, "--nj", "2")
    assert code == 1
    assert err.startswith("error: 1 clips")
    assert "--allow-missing 1" in err
    assert shards(damaged) == [f"shard-0000{index}.h5" for index in (0, 2, 3)]
    assert run(damaged, "--allow-missing", "1", "--shard", "2/2")[:2] == (
        0,
        f"{damaged}/features/logmel: {SHARD} clips\n",
    )
    assert list(feature_store.Store(damaged / "features" / "logmel").left_out) == [BAD]
    assert (
        run(damaged, "--allow-missing", "1")[1]
        == f"{damaged}/features/logmel is up to date: {CLIPS - 1} clips\n"
    )
    assert run(damaged)[0] == 1  # no longer allowed
    os.link(damaged / "x.wav", damaged / "bad.wav")
    assert run(damaged)[:2] == (0, f"{damaged}/features/logmel: {CLIPS} clips\n")
    assert feature_store.Store(damaged / "features" / "logmel").left_out == {}


@pytest.mark.parametrize("start_s", [0.85, 0.95, 1.0, 30.0])
def test_extraction_and_the_check_of_prepare_agree_on_late_clips(start_s, data, run):
    clips, classes = manifest.read(data)
    clips[int(BAD)] = replace(clips[int(BAD)], start_s=start_s)
    manifest.write(data, clips, classes)
    refused = inspection.unusable_audio(data, clips)
    assert list(refused) == ([BAD] if start_s > 0.9 else [])
    assert run(data, "--allow-missing", "1")[0] == 0
    left_out = feature_store.Store(data / "features" / "logmel").left_out
    path = data / clips[int(BAD)].audio
    assert left_out == {name: f"{path}: {reason}" for name, reason in refused.items()}


def test_clips_that_may_be_left_out_are_counted_by_part(damaged, run):
    damage(damaged, "000000")  # in the first shard
    for part in ("1/2", "2/2"):
        assert run(damaged, "--allow-missing", "1", "--shard", part)[0] == 0
    code, _, err = run(damaged, "--allow-missing", "1")
    assert code == 1
    assert err.startswith("error: 2 clips")


STAGE = """
import sys
sys.path.insert(0, {source!r})
import extract
from ast_repr import cli
from ast_repr.data import feature_store

feature_store.SHARD_CLIPS = {shard}
cli.run(extract.main, extract.parse())
"""
MANY = 96  # shards


@pytest.fixture
def start(tmp_path):
    """Options -> (process of the stage that has written a shard of MANY, its data)."""
    data = write(tmp_path, MANY * SHARD)
    code = STAGE.format(source=str(ROOT / "src"), shard=SHARD)

    def begin(*options):
        process = helpers.start([sys.executable, "-c", code, "--data", data, *OPTIONS, *options])
        helpers.wait_until(lambda: shards(data), process)
        return process, data

    return begin


@pytest.mark.slow
def test_an_interrupted_extraction_keeps_whole_shards_and_resumes(start, run):
    process, data = start()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert 1 <= len(shards(data)) < MANY
    assert run(data, "--nj", "2")[0] == 0
    assert len(shards(data)) == MANY


def children(pid):
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["worker", "parent"])
def test_no_process_outlives_one_that_was_killed(killed, start):
    process, data = start("--nj", "2")
    workers = children(process.pid)
    os.kill(workers[-1] if killed == "worker" else process.pid, signal.SIGKILL)
    # This returns when no process has standard error open any more.
    _, err = process.communicate(timeout=120)
    if killed == "worker":
        assert process.returncode == 1
        assert "--nj" in err.splitlines()[-1]
        assert "Traceback" not in err
    assert len(workers) == 2
    assert 1 <= len(shards(data)) < MANY


def test_shards_of_a_larger_manifest_go(data, run):
    assert run(data)[0] == 0
    rewrite(data, lambda clips: clips[:SHARD])
    assert run(data)[:2] == (0, f"{data}/features/logmel is up to date: {SHARD} clips\n")
    assert shards(data) == ["shard-00000.h5"]
    assert (
        len(feature_store.read_header(data / "features" / "logmel" / "shard-00000.h5").rows)
        == SHARD
    )


def logmel(path):
    waveform = torch.from_numpy(audio.fit(audio.decode(path)))[None]
    return features.build("logmel")(waveform)[0].half().numpy()


def test_audio_that_was_replaced_is_extracted_again_and_nothing_else(data, run):
    rewrite(data, lambda clips: [replace(clip, audio="x.wav") for clip in clips])
    one = replace_audio_of(data, BAD, "z.wav")  # in the second of four shards
    prepare(data)
    assert run(data)[0] == 0
    folder = data / "features" / "logmel"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    old = feature_store.Store(folder).read([BAD])[0]
    replace_file(one)
    prepare(data)
    with pytest.raises(feature_store.StoreError, match="1 clips have changed"):
        feature_store.Store(folder, None, manifest.identities(manifest.read(data)[0], "logmel"))
    code, out, _ = run(data)
    assert code == 0
    assert "1 clips have changed" in out
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"shard-00001.h5"}
    new = feature_store.Store(folder).read([BAD])[0]
    assert np.array_equal(new, logmel(one))
    assert not np.array_equal(new, old)
    assert "up to date" in run(data)[1]


def replace_audio_of(data, clip, name):
    """Let a clip have another file; returns its path."""
    rewrite(
        data,
        lambda clips: [replace(own, audio=name) if own.clip == clip else own for own in clips],
    )
    return data / name


def test_audio_that_was_replaced_since_prepare_is_refused(data, run):
    replace_file(data / "y.wav")
    (data / manifest.HASHES).touch()
    code, _, err = run(data, "--allow-missing", str(CLIPS))
    assert code == 1
    assert "y.wav: changed since the stage `prepare`; run it again" in err
    assert not (data / manifest.HASHES).exists()  # so that `prepare` looks at every file
    prepare(data)
    assert run(data)[0] == 0


def test_another_start_in_the_same_file_is_another_clip(data, run):
    assert run(data)[0] == 0
    rewrite(data, lambda clips: [replace(clips[0], start_s=0.5), *clips[1:]])
    assert "1 clips have changed" in run(data)[1]


def test_a_damaged_shard_is_made_again(data, run):
    assert run(data)[0] == 0
    path = data / "features" / "logmel" / "shard-00002.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "up to date" not in run(data)[1]
    names = [clip.clip for clip in manifest.read(data)[0]]
    assert len(feature_store.Store(path.parent).read(names)) == CLIPS
