"""The built-in corpus: the same bytes again, OpenMIC's layout and proportions, unseen artists."""

import io
import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from ast_repr import audio, manifest
from ast_repr.corpora import arrangement, openmic, soundfont, synthetic
from ast_repr.corpora.arrangement import INSTRUMENTS, UNLABELLED

CLIPS = 200  # the fewest that it makes


def jobs(root, seed=0, clips=CLIPS):
    return [
        (root, seed, artist, clip)
        for artist in synthetic._artists(seed, clips)
        for clip in artist.clips
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The tables alone, read through OpenMIC's reader: nothing is rendered."""
    root = tmp_path_factory.mktemp("synthetic") / "openmic-2018"
    synthetic._write_tables(root, jobs(root))
    return root


@pytest.fixture(scope="module")
def clips(corpus):
    return openmic.clips(corpus, corpus.parent)[0]


def relevances(clips, split=None):
    return [
        value for clip in clips if split in (None, clip.split) for value in clip.labels.values()
    ]


def test_the_tables_are_openmics(corpus, clips):
    assert openmic.clips(corpus, corpus.parent)[1] == sorted(INSTRUMENTS)
    assert len(INSTRUMENTS) == 20
    assert len(clips) == CLIPS
    assert len({clip.clip for clip in clips}) == CLIPS
    assert Counter(clip.split for clip in clips) == {"train": 150, "test": 50}
    manifest.check(clips, synthetic.CLASSES)


def test_every_class_is_observed_in_both_splits(clips):
    for split in ("train", "test"):
        assert {name for clip in clips if clip.split == split for name in clip.labels} == set(
            synthetic.CLASSES
        )


def test_artists_are_whole_and_those_of_test_unseen_in_training(clips):
    artists = {
        split: {clip.group for clip in clips if clip.split == split} for split in ("train", "test")
    }
    assert not artists["train"] & artists["test"]
    assert len(artists["train"]) == 15
    assert len(artists["test"]) == 5


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_as_sparse_soft_and_balanced_as_openmics(seed, tmp_path):
    synthetic._write_tables(tmp_path, jobs(tmp_path, seed, 1_000))
    own, _ = openmic.clips(tmp_path, tmp_path)
    values = relevances(own)
    assert 1.8 <= len(values) / len(own) <= 2.3
    for split in ("train", "test"):
        present = statistics.mean(value >= manifest.PRESENT for value in relevances(own, split))
        assert 0.35 <= present <= 0.50
    assert all(0 <= value <= 1 for value in values)
    assert statistics.mean(0 < value < 1 for value in values) > 0.1


def test_the_seed_decides_every_table(corpus, tmp_path):
    tables = sorted(path.relative_to(corpus) for path in corpus.rglob("*.*"))
    assert len(tables) == 6
    for name, seed, same in (("again", 0, True), ("other", 1, False)):
        synthetic._write_tables(tmp_path / name, jobs(tmp_path / name, seed))
        differing = [
            path
            for path in tables
            if (tmp_path / name / path).read_bytes() != (corpus / path).read_bytes()
        ]
        assert bool(differing) != same


@pytest.mark.parametrize("clips", [199, 20_001])
def test_a_size_out_of_range_is_refused(clips, tmp_path):
    with pytest.raises(ValueError, match=f"{clips} clips; expected 200 to 20000"):
        synthetic.make(tmp_path, clips=clips)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def styles():
    """Those of the first 500 artists."""
    return [synthetic._draw_style(0, number) for number in range(500)]


def test_enough_is_rendered_however_high_an_artist_is_tuned(styles):
    for style in styles:
        played = style.seconds / 2 ** (style.cents / 1200)
        assert played > synthetic.CLIP_SECONDS
    assert max(style.cents for style in styles) > 50  # an eighth of a tone: some are extreme


def test_the_first_clips_do_not_depend_on_the_tuning(styles):
    """They have not changed since longer ones are rendered for artists with a high tuning."""
    assert {style.seconds for style in styles[:100]} == {10.2}


@pytest.mark.parametrize("extreme", [min, max])
def test_clips_of_the_flattest_and_the_sharpest_artist_are_whole(extreme, styles, tmp_path):
    number = extreme(range(len(styles)), key=lambda number: styles[number].cents)
    artist = synthetic.Artist(number, "train", tuple(synthetic.CLASSES[:6]), range(0))
    synthetic._render_clip((tmp_path, 0, artist, 19_999))
    sound, rate = soundfile.read(synthetic.audio_path(tmp_path, synthetic.key(19_999)))
    assert len(sound) == 220_500
    assert rate == 22_050
    assert np.abs(sound[-2205:]).max() > 1e-4  # to its end


def test_a_clip_is_rendered_to_the_same_bytes_again(tmp_path):
    for job in (jobs(tmp_path)[3], jobs(tmp_path)[117]):
        paths = []
        for root in (tmp_path / "one", tmp_path / "two"):
            synthetic._render_clip((root, *job[1:]))
            paths.append(openmic.audio_path(root, synthetic.key(job[3])))
        assert paths[0].read_bytes() == paths[1].read_bytes()
        sound, rate = soundfile.read(paths[0])
        assert sound.shape == (220_500,)
        assert rate == 22_050
        assert 0.05 < np.abs(sound).max() <= 1.05
        assert np.isfinite(sound).all()
        audio.clip(paths[0], shortest_s=openmic.SHORTEST_SECONDS, warn=pytest.fail)


def pages(data):
    """The pages of an Ogg stream (RFC 3533, section 6)."""
    while data:
        size = 27 + data[26] + sum(data[27 : 27 + data[26]])
        yield data[:size]
        data = data[size:]


def checksum(page):
    """Compute Ogg's CRC bit by bit (0x04c11db7, from 0) over the page without its CRC."""
    value = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value


@pytest.fixture(scope="module")
def noise():
    return (0.2 * np.random.default_rng(0).standard_normal(30_000)).astype(np.float32)


@pytest.mark.slow
def test_clips_of_a_corpus_of_another_size_are_rendered_again(monkeypatch, tmp_path):
    """What a clip contains depends on the size, so that clips of another one have wrong labels."""
    monkeypatch.setattr(synthetic, "FEWEST_CLIPS", 1)
    monkeypatch.setattr(synthetic, "CLIPS_PER_ARTIST", 1)

    def audio(root, clips):
        synthetic.make(root, clips=clips)
        return {path.name: path.read_bytes() for path in root.rglob("*.ogg")}

    smaller = audio(tmp_path / "extended", 4)
    extended = audio(tmp_path / "extended", 12)
    assert extended == audio(tmp_path / "whole", 12)
    assert any(extended[name] != content for name, content in smaller.items())


def test_an_ogg_file_is_restamped_with_its_serial_and_right_checksums(noise):
    data = synthetic.ogg_bytes(noise, 22_050, serial=123_456)
    assert (
        data
        == synthetic.ogg_bytes(noise, 22_050, serial=123_456)
        != synthetic.ogg_bytes(noise, 22_050, serial=7)
    )
    result = list(pages(data))
    assert len(result) >= 3
    assert b"".join(result) == data
    for page in result:
        assert page[:4] == b"OggS"
        assert int.from_bytes(page[14:18], "little") == 123_456
        assert int.from_bytes(page[22:26], "little") == checksum(page)


def test_restamping_does_not_change_the_sound(noise):
    plain = io.BytesIO()
    soundfile.write(plain, noise, 22_050, format="OGG", subtype="VORBIS")
    plain.seek(0)
    stamped = soundfile.read(io.BytesIO(synthetic.ogg_bytes(noise, 22_050, serial=5)))[0]
    assert np.array_equal(stamped, soundfile.read(plain)[0])
    assert len(stamped) == 30_000


@pytest.mark.slow
@pytest.mark.parametrize("name", [*INSTRUMENTS, *UNLABELLED])
def test_every_note_is_in_the_instruments_range(name):
    instrument = (INSTRUMENTS | UNLABELLED)[name]
    assert instrument.high <= soundfont.MAX_PITCH
    for draw in range(60):
        rng = np.random.default_rng([9, draw])
        key = int(rng.integers(12))
        bars = arrangement.harmony(rng, key, 240 / rng.uniform(66, 158), 10.2)
        for role in instrument.roles:
            notes = arrangement.write(role, rng, bars, key, instrument.low, instrument.high)
            assert notes
            for start, length, pitch, velocity in notes:
                assert instrument.low <= pitch <= instrument.high
                assert 0 <= start < bars[-1][1]
                assert length > 0
                assert 1 <= velocity <= 127


def test_no_rendered_pitch_exceeds_the_safe_one(monkeypatch):
    rendered = []

    def listen(program, notes, seconds, synthesizer):
        rendered.append((program, max((note[2] for note in notes), default=0)))
        return np.ones(round(seconds * soundfont.RENDER_RATE), np.float32)

    monkeypatch.setattr(synthetic, "render", listen)
    for instrument in (INSTRUMENTS | UNLABELLED).values():
        program = instrument.programs[0] if instrument.programs else None
        for shift in instrument.shift if instrument.programs else (0,):
            rng = np.random.default_rng(0)
            bars = arrangement.harmony(rng, 0, 2.0, 10.2)
            synthetic.render_part(rng, instrument, (program, shift), bars, 0, 10.2)
    assert len(rendered) >= 56
    assert max(pitch for _, pitch in rendered) <= soundfont.MAX_PITCH


def test_a_pitch_on_which_the_renderer_would_hang_is_refused():
    with pytest.raises(ValueError, match="97; the renderer is safe up to 96"):
        note = (0.0, 1.0, soundfont.MAX_PITCH + 1, 90)
        synthesizer = soundfont.make_synthesizer(soundfont.default_soundfont())
        soundfont.render(0, [note], 1.0, synthesizer)


def test_programs_are_general_midi():
    for instrument in (INSTRUMENTS | UNLABELLED).values():
        assert all(0 <= program <= 127 for program in instrument.programs)
        assert replace(instrument, programs=()).low < instrument.high


def test_the_bytes_of_a_clip_do_not_depend_on_those_rendered_before_it(tmp_path):
    """A process keeps its synthesizers, which may play other sounds after others."""
    artist = synthetic._artists(0, 1000)[3]
    clips = artist.clips[:3]
    names = [synthetic.key(clip) for clip in clips]
    orders = {"forwards": clips, "backwards": clips[::-1]}
    for folder, order in orders.items():
        synthetic._synthesizer.cache_clear()
        for clip in order:
            synthetic._render_clip((tmp_path / folder, 0, artist, clip))
    for name in names:
        forwards, backwards = (
            synthetic.audio_path(tmp_path / folder, name).read_bytes() for folder in orders
        )
        assert forwards == backwards, name
