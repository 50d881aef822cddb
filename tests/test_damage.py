"""Damaged files: missing parts are reported, the others are read."""

import io
import re
import struct

import numpy as np
import pytest
import soundfile
from make_audio import encode, music

from ast_repr import audio, ogg
from ast_repr.audio import AudioError

RATE = 16_000
SECONDS = 6
FLIPS = 60  # of single bits, in each format


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A healthy file of each format, called healthy.SUFFIX."""
    path, sound = tmp_path_factory.mktemp("healthy"), music(SECONDS, RATE, 1)
    soundfile.write(path / "healthy.ogg", sound, RATE, format="OGG", subtype="VORBIS")
    encode(path / "healthy.opus", music(SECONDS, 48_000, 1), 48_000, "libopus")
    codecs = {"flac": "flac", "mp3": "libmp3lame", "wav": "pcm_s16le", "wv": "wavpack"}
    codecs |= {"mka": "flac", "aiff": "pcm_s16be", "aac": "aac", "au": "pcm_s16be", "tta": "tta"}
    for suffix, codec in codecs.items():
        encode(path / f"healthy.{suffix}", sound, RATE, codec, bit_rate=64_000)
    return path


@pytest.fixture
def damaged(folder, tmp_path):
    """(suffix, function that changes the bytes of the healthy file) -> path of a changed file."""

    def make(suffix, change):
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(change((folder / f"healthy.{suffix}").read_bytes()))
        return path

    return make


def flipped(data, rng):
    """The same bytes but for one bit."""
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def read(path):
    """(waveform, lines of warning) of a damaged file."""
    messages = []
    return audio.decode(path, warn=messages.append, damaged=True), messages


def missing(line):
    """(seconds, places in seconds) that a warning states."""
    amount = re.search(r"damaged: ([\d.e-]+) s missing", line)
    places = re.findall(r"([\d.]+) s", line.partition("missing at ")[2])
    return float(amount[1]) if amount else None, [float(place) for place in places]


@pytest.mark.parametrize("suffix", ["ogg", "opus", "flac", "wv", "mka", "tta"])
def test_no_flipped_bit_is_silent_in_formats_with_checksums(suffix, folder, damaged):
    healthy, rng = audio.decode(folder / f"healthy.{suffix}"), np.random.default_rng(0)
    warned = 0
    for _ in range(FLIPS):
        path = damaged(suffix, lambda data: flipped(data, rng))
        try:
            result, messages = read(path)
        except AudioError:
            continue
        if result.shape == healthy.shape and np.array_equal(result, healthy):
            continue  # in a tag or header that says nothing of the sound
        assert messages, "changed in silence"
        warned += 1
    assert warned > FLIPS / 2  # damage does not keep the rest from being read


@pytest.mark.parametrize("suffix", ["mp3", "wav", "aac"])
def test_no_flipped_bit_crashes_in_formats_without_checksums(suffix, damaged):
    rng = np.random.default_rng(0)
    for _ in range(FLIPS // 2):
        try:
            result, _ = read(damaged(suffix, lambda data: flipped(data, rng)))
        except AudioError:
            continue
        assert np.isfinite(result).all()
        assert np.abs(result).max() <= 1


@pytest.mark.parametrize(
    "suffix", ["ogg", "opus", "flac", "mp3", "wav", "mka", "aiff", "au", "tta"]
)
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(suffix, folder, damaged):
    path = damaged(suffix, lambda data: data[: len(data) * 6 // 10 + 1])
    result, (line,) = read(path)
    whole = audio.decode(folder / f"healthy.{suffix}")
    assert 0.2 * len(whole) < len(result) < 0.9 * len(whole)
    same = len(result) - 4_000  # samples near the cut may be decoded otherwise
    np.testing.assert_allclose(result[:same], whole[:same], rtol=0, atol=1e-3)
    seconds, (place,) = missing(line)
    assert place == pytest.approx(len(result) / RATE, abs=0.06)
    if suffix not in ("ogg", "opus"):  # which do not state their length
        assert seconds == pytest.approx(SECONDS - place, abs=0.15)


@pytest.mark.parametrize("suffix", ["ogg", "flac"])
def test_damage_in_the_middle_is_located_and_the_rest_is_read(suffix, folder, damaged):
    def spoil(data):
        middle = len(data) // 2
        return data[:middle] + b"\0\xff" + data[middle + 2 :]

    path = damaged(suffix, spoil)
    result, (line,) = read(path)
    seconds, (place,) = missing(line)
    whole = audio.decode(folder / f"healthy.{suffix}")
    assert len(result) / RATE + seconds == pytest.approx(SECONDS, abs=0.05)
    assert 1 < place < 5
    tail = RATE // 2
    np.testing.assert_allclose(result[-tail:], whole[-tail:], rtol=0, atol=0.02)
    assert (
        np.concatenate(list(audio.stream(path, warn=[].append, damaged=True))).size == result.size
    )


def test_damage_is_an_error_unless_it_is_allowed(damaged):
    path = damaged("flac", lambda data: data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"damaged\.flac: damaged: .* missing"):
        audio.decode(path)
    with pytest.raises(AudioError, match="missing"):
        list(audio.stream(path))
    with pytest.raises(AudioError, match="missing"):
        audio.clip(path)
    assert "missing" in audio.complaint(path)


@pytest.mark.parametrize("suffix", ["ogg", "flac", "mp3", "wav"])
def test_a_clip_before_the_damage_is_usable(suffix, folder, damaged):
    path = damaged(suffix, lambda data: data[: len(data) * 8 // 10])
    whole = audio.decode(folder / f"healthy.{suffix}", 1, 2)
    assert np.array_equal(audio.decode(path, 1, 2), whole)


def test_a_damaged_second_stream_of_a_chained_file_is_warned_of(folder, tmp_path):
    first = (folder / "healthy.ogg").read_bytes()
    second = io.BytesIO()
    soundfile.write(second, music(2, RATE, 1), RATE, format="OGG", subtype="VORBIS")
    data = second.getvalue()
    for place in (30, 1_000, len(data) // 2):  # in its first page, in its headers, in its sound
        spoilt = data[:place] + b"\0\xff" + data[place + 2 :]
        (tmp_path / "chained.ogg").write_bytes(first + spoilt)
        result, (line,) = read(tmp_path / "chained.ogg")
        assert len(result) / RATE >= SECONDS
        assert missing(line)[1][0] >= SECONDS - 0.1


def ape_tag():
    item = struct.pack("<II", 8, 0) + b"REPLAYGAIN_TRACK_GAIN\0-5.46 dB"
    ends = [
        b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags) + bytes(8)
        for flags in (0xA0000000, 0x80000000)
    ]
    return ends[0] + item + ends[1]


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "wav", "aac"])
@pytest.mark.parametrize(
    "tag", [ape_tag(), b"TAG" + bytes(125), bytes(500)], ids=["ape", "id3v1", "zeros"]
)
def test_a_tag_behind_the_sound_is_no_damage(suffix, tag, folder, damaged):
    result, messages = read(damaged(suffix, lambda data: data + tag))
    assert not messages
    assert np.array_equal(result, audio.decode(folder / f"healthy.{suffix}"))


def test_files_without_any_sound_are_refused(tmp_path):
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(50_000))
    (tmp_path / "frames.aac").write_bytes(b"\xff\xf1\x50\x80\x05\x1f\xfc" + bytes(33) * 200)
    for name in ("noise.mp3", "frames.aac"):
        with pytest.raises(AudioError, match=name):
            audio.decode(tmp_path / name)


# Pages of Ogg files.


def test_healthy_pages_are_valid_and_every_flip_in_them_is_found(folder):
    data = (folder / "healthy.ogg").read_bytes()
    (link,) = ogg.links(io.BytesIO(data))
    assert (link.begin, link.end, link.damaged) == (0, len(data), False)
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert any(link.damaged for link in ogg.links(io.BytesIO(flipped(data, rng))))


def test_links_of_a_chained_file_are_told_apart(folder):
    data = (folder / "healthy.ogg").read_bytes()
    result = ogg.links(io.BytesIO(data * 3))
    assert [(link.begin, link.end) for link in result] == [
        (number * len(data), (number + 1) * len(data)) for number in range(3)
    ]
    assert not any(link.damaged for link in result)


@pytest.mark.parametrize("cut", [1, 20, 3_000])
def test_a_page_that_was_cut_off_is_damage(cut, folder):
    data = (folder / "healthy.ogg").read_bytes()
    assert ogg.links(io.BytesIO(data[:-cut]))[-1].damaged
