"""The figure of a song: axes in Hz and in time, silence, and a width for phones."""

import numpy as np
import pytest

from ast_repr import features
from ast_repr.inference import FilePrediction
from ast_repr.report import style
from ast_repr.viewer import timeline
from ast_repr.viewer.predictions import DisplayOptions

SILENCE = np.full((998, 128), -15.94)
VIEW = DisplayOptions(["bass", "flute"], 0.5)


def song(seconds, probability=0.7):
    return FilePrediction(
        "a/song.wav",
        seconds,
        times=np.array([[0.0, seconds]]),
        timeline=np.array([[probability, 0.1]]),
        probabilities=np.array([probability, 0.1]),
        silent=np.array([probability == 0]),
    )


def drawn(values, seconds=10.0, narrow=False):
    log_mel = timeline.LongLogMel()
    log_mel.add(0, seconds, values)
    return timeline.draw(song(seconds), VIEW, log_mel, narrow)


@pytest.mark.parametrize("name", sorted({*style.SCALES} - {"scalogram"}))
def test_bands_in_hz_are_those_of_the_features_filters(name):
    feature = features.build(name)
    filters = feature.banks if name == "logmel" else feature.filters  # (FFT // 2 + 1, bins)
    hz = np.linspace(0, features.window(feature).sample_rate / 2, len(filters))
    high = filters.numpy()[:, -40:]  # wide enough that the bins of the FFT sample them well
    centres = high.T @ hz / high.sum(axis=0)
    bands = style.band_of(centres, name, feature.bins)
    np.testing.assert_allclose(bands, np.arange(feature.bins)[-40:], atol=0.3)


def test_bands_in_hz_are_the_scales_of_a_scalogram():
    bands = style.band_of(features.build("scalogram").hz.numpy(), "scalogram", 96)
    np.testing.assert_allclose(bands, np.arange(96), atol=1e-9)


def test_frames_per_second_are_those_of_the_features():
    for name in (*style.SCALES, "multi_stft"):
        feature = features.build(name, **({"seconds": 100} if name[0] == "h" else {}))
        frames = 998 if name == "logmel" else feature.frames
        seconds = features.window(feature).seconds
        assert frames / seconds == pytest.approx(style.frames_per_second(name), rel=0.01), name


def test_frequency_is_labelled_in_hz():
    figure = drawn(np.random.default_rng(0).normal(size=(998, 128)))
    axes = figure.axes[1]
    assert axes.get_ylabel() == "frequency, Hz" and axes.get_ylim() == (-0.5, 127.5)
    labels = {label.get_text(): label.get_position()[1] for label in axes.get_yticklabels()}
    assert labels["1k"] == pytest.approx(style.band_of(1000, "logmel", 128))


def test_the_colours_of_silence_have_a_range():
    figure = drawn(SILENCE)
    low, high = figure.axes[1].images[0].get_clim()
    assert high - low >= 1
    narrow = drawn(SILENCE, narrow=True)
    assert narrow.get_figwidth() == style.NARROW < figure.get_figwidth()


@pytest.mark.parametrize(
    ("seconds", "step"), [(0.01, 0.1), (10, 2), (25, 5), (600, 120), (90_000, 18_000)]
)
def test_times_are_marked_at_round_steps(seconds, step):
    ticks = drawn(SILENCE, seconds).axes[1].xaxis.get_major_locator()()
    assert np.diff(ticks)[0] == pytest.approx(step)
