"""Files as people have them: any format, wrong headers, several in one; whole or in part."""

import io
import re
import struct

import av
import numpy as np
import pytest
import soundfile
from make_audio import encode, mp3_with_cover, music, piped_flac

from ast_repr import audio
from ast_repr.audio import AudioError

RATE = 16_000
FORMATS = {  # suffix: (encoder, rate, seconds that padding may add)
    "aac": ("aac", 22_050, 0.1),
    "ac3": ("ac3", 44_100, 0.05),
    "aiff": ("pcm_s24be", 22_050, 0),
    "amr": ("libopencore_amrnb", 8_000, 0.05),
    "au": ("pcm_mulaw", 22_050, 0),
    "caf": ("pcm_s16le", 22_050, 0),
    "flac": ("flac", 22_050, 0),
    "m4a": ("aac", 22_050, 0.1),
    "m4b": ("alac", 22_050, 0),
    "mka": ("flac", 22_050, 0.001),
    "mp2": ("mp2", 22_050, 0.05),
    "mp3": ("libmp3lame", 22_050, 0),
    "ogg": ("flac", 22_050, 0),
    "opus": ("libopus", 48_000, 0),
    "tta": ("tta", 22_050, 0),
    "w64": ("pcm_s16le", 22_050, 0),
    "wav": ("pcm_u8", 22_050, 0),
    "webm": ("libopus", 48_000, 0.02),
    "wma": ("wmav2", 22_050, 0.1),
    "wv": ("wavpack", 22_050, 0),
}


LAG = 1_200  # samples at 16 kHz that encoders may put before the audio


def refuse(line):
    """A `warn` for files that nothing is wrong with."""
    raise AssertionError(line)


def wave(sound, rate=RATE, subtype="PCM_16"):
    """The bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, subtype=subtype, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_whole(suffix, tmp_path):
    codec, rate, padding = FORMATS[suffix]
    sound = music(3, rate, channels=1)
    options = {"bit_rate": 64_000} if codec == "wmav2" else {}
    path = encode(tmp_path / f"tune.{suffix}", sound, rate, codec, **options)
    result = audio.decode(path, warn=refuse)
    assert 3 - 0.05 * (codec == "wmav2") <= len(result) / RATE <= 3 + padding + 1e-3
    expected = audio.resample(sound[:, 0].astype(np.float32), rate, RATE)
    middle = expected[RATE : 2 * RATE] / np.linalg.norm(expected[RATE : 2 * RATE])
    around = result[RATE - LAG : 2 * RATE + LAG]
    assert np.correlate(around, middle).max() > 0.5 * np.linalg.norm(around)


def test_a_video_is_read_by_its_sound_track(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as output:
        picture = output.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        sound = output.add_stream("aac", rate=44_100, layout="mono")
        for _ in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            output.mux(picture.encode(frame.reformat(format="yuv420p")))
        output.mux(picture.encode(None))
        samples = music(2, 44_100, 1).T.astype(np.float32)
        for start in range(0, 88_200, 1024):
            part = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], "fltp", "mono")
            part.sample_rate, part.pts = 44_100, start
            output.mux(sound.encode(part))
        output.mux(sound.encode(None))
    assert 2.0 <= audio.duration(path) < 2.1
    assert np.std(audio.decode(path)) > 0.02


def test_a_picture_is_not_audio(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    matplotlib.imsave(tmp_path / "cover.png", np.zeros((8, 8)))
    with pytest.raises(AudioError, match="cover.png: not readable as audio"):
        audio.decode(tmp_path / "cover.png")


def test_a_playlist_opens_no_other_file(tmp_path):
    encode(tmp_path / "part.aac", music(1, 22_050, 1), 22_050, "aac")
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:1,", str(tmp_path / "part.aac")]
    for name in ("list.m3u8", "song.mp3"):
        (tmp_path / name).write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
        with pytest.raises(AudioError, match="not readable as audio"):
            audio.decode(tmp_path / name)


def test_a_file_name_is_never_taken_for_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:song.wav", "Artist: Song.wav", "concat:a|b", "%03d.wav"):
        (tmp_path / name).write_bytes(wave(np.full(RATE, 0.1)))
        assert len(audio.decode(name)) == RATE


# Headers that know nothing, or the wrong thing.


def test_mp3_without_a_header_is_read_to_its_end(tmp_path):
    """Variable bit rate, loud first: FFmpeg estimates less than half of it."""
    sound = np.zeros((24 * 22_050, 1))
    sound[:44_100, 0] = 0.9 * np.random.default_rng(0).uniform(-1, 1, 44_100)
    settings = {"options": {"write_xing": "0"}, "qscale": True, "global_quality": 118}
    path = encode(tmp_path / "vbr.mp3", sound, 22_050, "libmp3lame", **settings)
    with av.open(str(path)) as container:
        assert container.duration / av.time_base < 20
    assert audio.duration(path) == pytest.approx(24, abs=0.1)
    assert len(audio.decode(path, warn=refuse)) / RATE == pytest.approx(24, abs=0.1)


def test_a_large_cover_does_not_count(tmp_path):
    path = mp3_with_cover(tmp_path / "art.mp3", 12)
    assert audio.duration(path) == pytest.approx(12, abs=0.1)
    audio.clip(path, 11)
    with pytest.raises(AudioError, match="no samples at or after 20 s"):
        audio.clip(path, 20)
    assert "no samples" in audio.complaint(path, 20)


def test_flac_from_a_pipe_is_read(tmp_path):
    path = piped_flac(tmp_path / "piped.flac", 3)
    assert len(audio.decode(path, warn=refuse)) == 3 * RATE


@pytest.mark.parametrize("stated", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_that_was_never_closed_is_read(stated, tmp_path):
    data = bytearray(wave(music(3, RATE, 1)))
    data[40:44] = struct.pack("<I", stated)
    (tmp_path / "open.wav").write_bytes(data)
    assert len(audio.decode(tmp_path / "open.wav", warn=refuse)) == 3 * RATE


@pytest.mark.parametrize("rate", [1, 3_999])
def test_a_rate_below_4_khz_is_refused(rate, tmp_path):
    (tmp_path / "slow.wav").write_bytes(wave(np.full(RATE, 0.1), rate))
    with pytest.raises(AudioError, match=f"a rate of {rate} Hz"):
        audio.decode(tmp_path / "slow.wav")
    assert "rate" in audio.complaint(tmp_path / "slow.wav")


# Several recordings in one file.


def test_joined_mp3_are_read_to_the_end(tmp_path):
    path = encode(tmp_path / "one.mp3", music(6, 22_050, 1), 22_050, "libmp3lame")
    one = path.read_bytes()
    (tmp_path / "joined.mp3").write_bytes(one + b"\0" * 300 + one)
    assert audio.duration(tmp_path / "joined.mp3") == pytest.approx(12, abs=0.2)


@pytest.mark.parametrize("rates", [(22_050, 22_050), (22_050, 44_100), (44_100, 8_000)])
@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_every_stream_of_a_chained_ogg_file_is_read(kind, rates, tmp_path):
    if kind == "OPUS":
        rates = [{22_050: 24_000, 44_100: 48_000}.get(rate, rate) for rate in rates]
    parts = []
    for number, rate in enumerate(rates):
        file = io.BytesIO()
        soundfile.write(file, music(4, rate, 1 + number), rate, format="OGG", subtype=kind)
        parts.append(file.getvalue())
        (tmp_path / f"{number}.ogg").write_bytes(parts[-1])
    (tmp_path / "chained.ogg").write_bytes(b"".join(parts))
    result = audio.decode(tmp_path / "chained.ogg", warn=refuse)
    ends = [audio.decode(tmp_path / f"{number}.ogg") for number in range(2)]
    assert len(result) == pytest.approx(8 * RATE, abs=500)
    tail = len(ends[1]) - 200  # the resampler knows of no seam
    np.testing.assert_allclose(result[:RATE], ends[0][:RATE], atol=1e-6)
    if rates[0] != rates[1] or kind == "OPUS":  # or the second one begins between two samples
        np.testing.assert_allclose(result[-tail:], ends[1][-tail:], atol=1e-6)
    part = audio.decode(tmp_path / "chained.ogg", 6, 1)
    np.testing.assert_allclose(part[200:-200], result[6 * RATE :][:RATE][200:-200], atol=1e-5)


# Any part of a file.

STARTS = [(0.3, 1), (5, None), (12.34567, 3), (17.9999, 2), (19.5, 10)]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("ogg", "VORBIS"),
        ("flac", "flac"),
        ("m4a", "aac"),
        ("wav", "pcm_s16le"),
        ("wav", "pcm_f32le"),
        ("wv", "wavpack"),
        ("m4b", "alac"),
        ("mka", "libmp3lame"),
    ],
)
def test_a_part_is_that_part_of_the_whole_to_the_sample(suffix, codec, tmp_path):
    path, sound = tmp_path / f"sound.{suffix}", music(20, RATE)
    if codec == "VORBIS":
        soundfile.write(path, sound, RATE, format="OGG", subtype=codec)
    else:
        encode(path, sound, RATE, codec)
    whole = audio.decode(path)
    for start_s, seconds in STARTS:
        first = round(start_s * RATE)
        end = None if seconds is None else first + round(seconds * RATE)
        assert np.array_equal(audio.decode(path, start_s, seconds), whole[first:end]), start_s


def test_a_late_part_is_not_decoded_from_the_start(tmp_path, monkeypatch):
    path = encode(tmp_path / "long.mp3", music(24, RATE, 1), RATE, "libmp3lame")
    decoded, frames = [], audio._decoded_packets

    def counted(*given):
        for frame in frames(*given):
            decoded.append(0 if frame is None else frame.samples)
            yield frame

    monkeypatch.setattr(audio, "_decoded_packets", counted)
    audio.decode(path, 16, 5)
    assert 5 * RATE <= sum(decoded) < 8 * RATE


@pytest.mark.parametrize("start_s", [0.95, 0.99, 1.0, 1.5])
def test_a_clip_without_a_tenth_of_a_second_is_refused(start_s, tmp_path):
    (tmp_path / "short.wav").write_bytes(wave(np.full(RATE, 0.1)))
    with pytest.raises(AudioError, match=re.escape(str(tmp_path / "short.wav"))):
        audio.clip(tmp_path / "short.wav", start_s)
    assert audio.complaint(tmp_path / "short.wav", start_s)


def test_a_clip_is_padded_to_ten_seconds(tmp_path):
    (tmp_path / "short.wav").write_bytes(wave(np.full(RATE, 0.25)))
    result = audio.clip(tmp_path / "short.wav", 0.9)
    assert result.shape == (160_000,)
    assert (result[:1600] == 0.25).all()
    assert not result[1600:].any()
    assert audio.complaint(tmp_path / "short.wav", 0.9) is None
    assert "too short" in audio.complaint(tmp_path / "short.wav", 0.0, 9.9)


# Levels.


def test_samples_beyond_one_are_divided_by_the_peak_with_a_warning(tmp_path):
    messages, sound = [], np.zeros(12 * RATE)
    sound[100], sound[-1] = -4096, 32_768  # as if 16 bits had been written as numbers
    (tmp_path / "loud.wav").write_bytes(wave(sound, subtype="FLOAT"))
    result = audio.decode(tmp_path / "loud.wav", warn=messages.append)
    assert (result[100], result[-1]) == (-0.125, 1.0)
    (line,) = messages
    assert "loud.wav" in line
    assert "32768" in line
    # The peak lies beyond this part; it is the whole file that is scaled.
    assert audio.decode(tmp_path / "loud.wav", 0, 1, warn=messages.append)[100] == -0.125
    assert np.array_equal(
        np.concatenate(list(audio.stream(tmp_path / "loud.wav", warn=messages.append))), result
    )


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_16"])
def test_full_scale_is_left_as_it_is(subtype, tmp_path):
    (tmp_path / "full.wav").write_bytes(wave(np.array([1.0, -1.0, 0.5] * 4000), subtype=subtype))
    result = audio.decode(tmp_path / "full.wav", warn=refuse)
    np.testing.assert_allclose(result[:3], [1, -1, 0.5], atol=1e-4)


def test_channels_in_opposite_phase_do_not_cancel(tmp_path):
    left = music(3, RATE, 1)[:, 0]
    for name, right in {"exact": -left, "nearly": -0.97 * left}.items():
        soundfile.write(tmp_path / f"{name}.flac", np.stack([left, right], axis=1), RATE)
        expected = soundfile.read(tmp_path / f"{name}.flac", dtype="float32")[0][:, 0]
        assert np.array_equal(audio.decode(tmp_path / f"{name}.flac"), expected)


def test_only_seconds_that_cancel_are_taken_from_one_channel(tmp_path):
    left = music(3, RATE, 1)[:, 0]
    right = left * np.repeat([1, -1, 0.3], RATE)
    soundfile.write(tmp_path / "partly.flac", np.stack([left, right], axis=1), RATE)
    both = soundfile.read(tmp_path / "partly.flac", dtype="float32")[0]
    expected = both.mean(axis=1)
    expected[RATE : 2 * RATE] = both[RATE : 2 * RATE, 0]
    whole = audio.decode(tmp_path / "partly.flac")
    assert np.array_equal(whole, expected)
    # That does not depend on where reading begins.
    assert np.array_equal(audio.decode(tmp_path / "partly.flac", 1.7, 1), whole[27_200:43_200])


def test_wide_stereo_and_many_channels_are_the_mean_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    wide = rng.uniform(-0.5, 0.5, (2 * RATE, 1)) * [[1, -0.8]]  # keeps 1.2 % of the power
    many = np.zeros((2 * RATE, 8))
    many[:, 3] = rng.uniform(-0.5, 0.5, 2 * RATE)
    for sound in (wide, many, rng.uniform(-0.5, 0.5, (2 * RATE, 2))):
        (tmp_path / "sound.wav").write_bytes(wave(sound))
        stored = soundfile.read(tmp_path / "sound.wav", dtype="float32")[0]
        expected = sum(stored.T[1:], stored.T[0]) / np.float32(stored.shape[1])
        assert np.array_equal(audio.decode(tmp_path / "sound.wav"), expected)


@pytest.mark.parametrize(
    ("sound", "silent"),
    [
        (np.zeros(99), True),
        (np.random.default_rng(0).integers(-2, 3, 9999) / 32_768, True),  # dither of 16 bits
        (np.full(99, 10 ** (-78 / 20)), False),
    ],
)
def test_silence_is_below_minus_80_decibels(sound, silent):
    assert audio.is_silent(sound.astype(np.float32)) is silent
