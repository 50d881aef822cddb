"""Any file becomes the same waveform: mono, 16 kHz, within +-1, no aliases; a bad one is named."""

import errno
import tracemalloc
from itertools import product

import numpy as np
import pytest
import soundfile

from ast_repr import audio
from ast_repr.audio import AudioError

RATE = audio.SAMPLE_RATE
RATES = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000)
FORMATS = {  # name: (suffix, subtype)
    "int16": ("wav", "PCM_16"),
    "int24": ("wav", "PCM_24"),
    "float": ("wav", "FLOAT"),
    "flac": ("flac", "PCM_16"),
    "ogg": ("ogg", "VORBIS"),
    "mp3": ("mp3", "MPEG_LAYER_III"),
}
LOSSY = ("ogg", "mp3")
RATES_AND_FORMATS = [
    (rate, kind) for rate, kind in product(RATES, FORMATS) if kind != "mp3" or rate <= 48_000
]


def tone(hz, rate, seconds=1.0):
    """A tone under a Hann window, so that its ends add no other frequencies."""
    t = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * hz * t) * np.hanning(len(t))


def decibels(sound):
    return 10 * np.log10(np.mean(np.square(sound, dtype=float)) + 1e-30)


def refuse(line):
    """A `warn` for files that nothing is wrong with."""
    raise AssertionError(line)


def write(folder, sound, rate, kind="float"):
    suffix, subtype = FORMATS[kind]
    path = folder / f"sound.{suffix}"
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("rate", "channels", "kind"),
    [
        *((rate, 2, kind) for rate, kind in RATES_AND_FORMATS),
        *((44_100, 1, kind) for kind in FORMATS),
        *((48_000, 6, kind) for kind in FORMATS if kind != "mp3"),
    ],
)
def test_every_rate_channel_count_and_format_gives_the_same_waveform(
    rate, channels, kind, tmp_path
):
    sound = 0.5 * tone(100, rate)
    result = audio.decode(write(tmp_path, np.tile(sound[:, None], channels), rate, kind))
    assert result.dtype == np.float32
    assert result.ndim == 1
    # FFmpeg misses the end of an Ogg file that is a single page by up to a block.
    assert abs(len(result) - RATE) <= (512 if kind == "ogg" else 1)
    expected, margin = 0.5 * tone(100, RATE), {"mp3": 0.03, "ogg": 0.05}.get(kind, 1e-3)
    end = 15_000 if kind == "ogg" else 15_999
    assert np.abs(result[:end] - expected[:end]).max() < margin


def test_16_khz_mono_comes_back_to_the_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
    assert np.array_equal(
        audio.decode(write(tmp_path, samples, RATE, "int16")), samples / np.float32(32768)
    )


def test_channels_are_averaged(tmp_path):
    sound = np.zeros((1000, 4))
    sound[:, 1], sound[:, 2] = 0.8, -0.4
    np.testing.assert_allclose(audio.decode(write(tmp_path, sound, RATE)), 0.1, atol=1e-7)


@pytest.mark.parametrize(
    ("rate", "hz"),
    [(22_050, 9_000), (44_100, 9_000), (44_100, 17_000), (48_000, 12_000), (96_000, 40_000)],
)
def test_frequencies_above_8_khz_are_80_db_down(rate, hz):
    sound = tone(hz, rate).astype(np.float32)
    assert decibels(audio.resample(sound, rate, RATE)) <= decibels(sound) - 80


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_7_khz_passes_within_half_a_decibel(rate):
    sound = tone(7_000, rate).astype(np.float32)
    assert abs(decibels(audio.resample(sound, rate, RATE)) - decibels(sound)) <= 0.5


@pytest.mark.parametrize(
    ("start", "seconds", "first", "end"),
    [
        (0.5, 0.25, 8_000, 12_000),
        (0.0, None, 0, 16_000),
        (0.75, None, 12_000, 16_000),
        (0.9, 5, 14_400, 16_000),
    ],
)
def test_a_part_begins_at_its_start_and_has_its_length(start, seconds, first, end, tmp_path):
    ramp = np.linspace(-1, 1, RATE, dtype=np.float32)
    assert np.array_equal(
        audio.decode(write(tmp_path, ramp, RATE), start, seconds), ramp[first:end]
    )


def test_a_start_beyond_the_end_is_an_error(tmp_path):
    with pytest.raises(AudioError, match=r"sound\.wav: no samples at or after 2 s"):
        audio.decode(write(tmp_path, np.full(100, 0.1), RATE), start_s=2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such audio file"),
        (b"", "0 bytes"),
        (b"certainly not audio" * 50, "not readable as audio"),
        (b"OggS" + bytes(60), "not readable as audio"),
    ],
)
@pytest.mark.parametrize("name", ["bad.wav", "bad.ogg", "bad.mp3"])
def test_a_file_that_holds_no_audio_is_named(name, content, reason, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=f"{name}: .*{reason}"):
        audio.decode(tmp_path / name)


def test_a_folder_is_no_audio_file(tmp_path):
    with pytest.raises(AudioError, match="a folder, expected an audio file"):
        audio.decode(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value, tmp_path):
    sound = np.zeros(1000)
    sound[500] = value
    with pytest.raises(AudioError, match=r"sound\.wav: .*not finite"):
        audio.decode(write(tmp_path, sound, 44_100))


@pytest.mark.parametrize(
    ("rate", "kind"), [case for case in RATES_AND_FORMATS if case[0] in (8_000, 16_000, 44_100)]
)
def test_a_stream_is_the_decoded_file_to_the_bit(rate, kind, tmp_path):
    """Healthy files of all kinds and rates also come without a word about damage."""
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (round(3.3 * rate), 2)).cumsum(axis=0)
    path = write(tmp_path, sound / np.abs(sound).max(), rate, kind)
    blocks = list(audio.stream(path, warn=refuse))
    assert len(blocks) >= 3
    assert all(block.dtype == np.float32 and 0 < len(block) <= 2 * RATE for block in blocks)
    assert np.array_equal(np.concatenate(blocks), audio.decode(path, warn=refuse))


@pytest.mark.parametrize("kind", ["int16", "int24", "float", "flac", "ogg", "mp3"])
def test_samples_are_those_of_libsndfile(kind, tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2 * RATE + 77, 2))
    path = write(tmp_path, sound, RATE, kind)
    expected = soundfile.read(path, dtype="float32")[0].mean(axis=1).clip(-1, 1)
    result = audio.decode(path)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 if kind in LOSSY else 0)


@pytest.mark.parametrize(("samples", "rate"), [(0, 16_000), (0, 44_100), (1, 96_000)])
def test_a_stream_of_nothing_is_an_error(samples, rate, tmp_path):
    with pytest.raises(AudioError, match=r"sound\.wav: (no samples|not readable as audio)"):
        list(audio.stream(write(tmp_path, np.zeros(samples), rate)))


def test_a_bad_sample_late_in_a_stream_is_found(tmp_path):
    sound = np.zeros(3 * RATE)
    sound[-1] = np.nan
    blocks = audio.stream(write(tmp_path, sound, RATE))
    assert len(next(blocks)) == RATE
    with pytest.raises(AudioError, match="not finite"):
        list(blocks)


def test_links_and_rights_are_named(tmp_path, monkeypatch):
    (tmp_path / "link.wav").symlink_to("gone.wav")
    with pytest.raises(
        AudioError, match=r"link\.wav: a link to a file that is not there \(gone\.wav\)"
    ):
        audio.decode(tmp_path / "link.wav")
    path = write(tmp_path, np.zeros(9), RATE)

    def refuse_to_open(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse_to_open)  # root may read all
    with pytest.raises(AudioError, match=r"sound\.wav: not readable \(Permission denied\)"):
        next(audio.stream(path))


@pytest.mark.parametrize(
    ("samples", "hop", "starts"),
    [
        (1, 160_000, [0]),
        (160_000, 160_000, [0]),
        (160_001, 160_000, [0, 1]),
        (320_000, 160_000, [0, 160_000]),
        (400_000, 160_000, [0, 160_000, 240_000]),
        (250_000, 50_000, [0, 50_000, 90_000]),
        (700_000, 300_000, [0, 300_000, 540_000]),
    ],
)
@pytest.mark.parametrize("block", [7_777, 160_000, 1_000_000])
def test_windows_begin_each_hop_and_end_with_the_sound(samples, hop, starts, block):
    sound = np.arange(samples)
    result = list(audio.windows([sound[i : i + block] for i in range(0, samples, block)], hop))
    assert [start for start, _ in result] == starts
    assert all(np.array_equal(part, sound[start : start + 160_000]) for start, part in result)


def test_windows_of_nothing_are_none():
    assert list(audio.windows([])) == []


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_seconds(tmp_path):
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 8_000, 1, "PCM_16") as file:
        for _ in range(61):
            file.write(np.zeros(60 * 8_000, np.int16))
    tracemalloc.start()
    count = sum(1 for _ in audio.windows(audio.stream(tmp_path / "hour.flac")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 366
    assert peak < 20e6  # the whole file takes 234 MB


@pytest.mark.parametrize("samples", [0, 3, 10, 25])
def test_fit_pads_with_zeros_and_cuts_at_the_end(samples):
    result = audio.fit(np.arange(1, samples + 1, dtype=np.float32), 10)
    assert result.dtype == np.float32
    assert result.tolist() == [*range(1, min(samples, 10) + 1), *[0] * max(0, 10 - samples)]


def test_fit_makes_a_clip_of_ten_seconds():
    assert audio.fit(np.ones(5, np.float32)).shape == (160_000,)
