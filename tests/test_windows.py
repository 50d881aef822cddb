"""Clips of any length: windows of long ones, from the manifest to the scores."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ast_repr import audio, cli, evaluation, features, manifest
from ast_repr.audio import Window
from ast_repr.data import feature_store, windows
from ast_repr.manifest import Clip
from ast_repr.settings import Score

ROOT = Path(__file__).parents[1]
CLIP = Clip("song", "artist", "song.wav", 1.0, "test", {"a": 1.0}, sha256="ab", seconds=7.5)


@pytest.mark.parametrize(
    "seconds, hop_s, starts",
    [
        (2, 3, [0]),
        (3, 3, [0]),
        (3.5, 3, [0, 0.5]),
        (6, 3, [0, 3]),
        (7.5, 3, [0, 3, 4.5]),
        (6, 1.5, [0, 1.5, 3]),
        (3.3, 0.1, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_a_clip_is_cut_as_its_audio_is(seconds, hop_s, starts):
    window = Window(3.0, hop_s, 1000)
    parts = windows.of_clip(replace(CLIP, seconds=seconds), window)
    assert [part.start_s - 1.0 for part in parts] == pytest.approx(starts)
    assert all(part.seconds == min(seconds, 3) for part in parts)
    assert len({part.clip for part in parts}) == len(parts)
    sound = np.zeros(round(seconds * 1000))
    cut = audio.windows([sound], round(hop_s * 1000), window.samples)
    assert [start / 1000 for start, _ in cut] == pytest.approx(starts)


def test_a_clip_of_ten_seconds_has_the_identities_that_it_had_before_clips_had_lengths():
    clip = replace(CLIP, seconds=10.0)
    assert windows.of_clip(clip, Window()) == [clip]
    assert clip.identity("logmel") == "ab@1"
    assert CLIP.identity("logmel") == "ab@1+7.5"
    digest = "af74619c8d978e91a130fc91b357fd7f805678c966847e3e55665cb522f747a5"
    assert manifest.content_sha256([clip], ["a"]) == digest
    assert manifest.content_sha256([CLIP], ["a"]) != digest


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0.01}, {"seconds": 1e9}, {"hop_s": 11}, {"hop_s": 1e-9}]
)
def test_a_window_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        features.window(features.build("logmel", **wrong))


def test_a_feature_without_a_window_takes_ten_seconds():
    assert features.window(object()) == Window(10, 10, 16_000)


@pytest.fixture
def data(tmp_path):
    """A training clip of 3 s, and a test clip of 7.5 s from the first second of a file on."""
    rng = np.random.default_rng(0)
    for name, seconds in (("short", 3), ("song", 9)):
        sound = rng.uniform(-0.5, 0.5, 22_050 * seconds)
        soundfile.write(tmp_path / f"{name}.wav", sound, 22_050)
    short = Clip("short", "other", "short.wav", 0.0, "train", {"a": 1.0}, seconds=3.0)
    manifest.write(tmp_path, manifest.with_hashes(tmp_path, [short, CLIP]), ["a"])
    return tmp_path


def test_the_stage_extract_stores_a_feature_for_each_window(data, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    extract = importlib.import_module("extract")
    conf = ("--conf-dir", str(ROOT / "egs" / "openmic" / "conf"), "--conf", "logmel_statistics")
    settings = ("--set", "feature.frames=304", "--set", "feature.seconds=3")
    cli.run(extract.main, extract.parse(), ["--data", str(data), *conf, *settings])
    assert "4 clips" in capsys.readouterr().out
    store = feature_store.Store(data / "features" / "logmel")
    feature = features.build("logmel", frames=304, seconds=3.0)
    for name, start_s in (("song@0", 1.0), ("song@3", 4.0), ("song@4.5", 5.5)):
        waveform = audio.decode(data / "song.wav", start_s, 3.0)
        expected = feature(torch.from_numpy(waveform)[None])[0].half().numpy()
        # Sums are rounded differently with another number of threads: the last bit of a float16.
        np.testing.assert_allclose(store.read([name])[0], expected, rtol=2**-10)
    clips, _ = manifest.read(data)
    assert feature_store.usable(data / "features", clips) == clips


def test_a_clip_is_left_out_if_a_window_is(tmp_path):
    part = windows.of_clip(CLIP, Window(3.0, 3.0))[1]
    other = replace(CLIP, clip="other")
    feature_store.write_shard(
        tmp_path / "logmel",
        0,
        np.zeros((1, 1, 2, 2), np.float16),
        manifest.identities([other, part], "logmel"),
        {},
        {part.clip: "silent"},
    )
    assert feature_store.usable(tmp_path, [other, CLIP]) == [other]


def split(counts):
    clips = [replace(CLIP, clip=f"{i}") for i in range(len(counts))]
    return evaluation.WindowedSplit(clips, ["a", "b"], None, counts)


def test_scores_of_windows_are_combined():
    scores = np.array([[0.2, 0.9], [0.5, 0.1], [0.8, 0.5]], np.float32)
    odds = scores / (1 - scores)
    mean = split([1, 2]).combine(scores)
    np.testing.assert_allclose(mean, [[0.2, 0.9], [0.65, 0.3]], rtol=1e-6)
    greatest = split([1, 2]).combine(scores, Score("max", "half", []))
    np.testing.assert_allclose(greatest, [[0.2, 0.9], [0.8, 0.5]], rtol=1e-6)
    on_logits = split([1, 2]).combine(scores, Score("mean_logit", "half", []))
    geometric = np.sqrt(odds[1] * odds[2])
    np.testing.assert_allclose(on_logits[1], geometric / (1 + geometric), rtol=1e-5)
    certain = split([2]).combine(
        np.array([[0, 1], [0, 1]], np.float32), Score("mean_logit", "half", [])
    )
    assert np.isfinite(certain).all()
    # Sums 1.3, 0.6 over the larger one; a single window over its largest class; silence stays 0.
    scores = np.array([[0.2, 0.8], [0.5, 0.1], [0.8, 0.5], [0.0, 0.0]], np.float32)
    normalised = split([1, 2, 1]).combine(scores, Score("normalised_sum", "mixtures", []))
    np.testing.assert_allclose(normalised, [[0.25, 1.0], [1.0, 6 / 13], [0, 0]], rtol=1e-6)


def test_one_window_per_clip_keeps_the_scores_to_the_bit():
    scores = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    combined = split([1] * 5).combine(scores)
    assert combined.dtype == np.float32
    np.testing.assert_array_equal(combined, scores)


def test_audio_is_decoded_at_the_rate_that_is_asked_for(tmp_path):
    sound = np.random.default_rng(0).integers(-9_999, 9_999, 66_150).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", sound, 22_050)
    same = audio.clip(tmp_path / "a.wav", seconds=3, rate=22_050)
    np.testing.assert_array_equal(same, sound / np.float32(32_768))
    assert len(audio.clip(tmp_path / "a.wav", 1.0, seconds=2, rate=44_100)) == 88_200
