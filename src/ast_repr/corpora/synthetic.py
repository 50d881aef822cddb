"""The built-in corpus: polyphonic music in OpenMIC-2018's layout, rendered on first use.

An artist is a line-up with presets, body sizes, tuning, tempo, room, noise and level of its own;
test artists are never heard in training. A clip is one to five parts, some entering late, some
barely audible, and in three clips of ten an instrument that has no label. Labels are like
OpenMIC's: about two per clip, 43 % of them present, most absent ones plausible confusions, and each
a weighted vote of three listeners who err: no method gets near 100.
"""

import csv
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from .. import atomic, processes
from .arrangement import INSTRUMENTS, UNLABELLED, harmony, siblings, write
from .soundfont import MAX_PITCH, RENDER_RATE, SPEED_OF_SEMITONE, Room, render

CLASSES = sorted(INSTRUMENTS)  # the twenty of OpenMIC-2018
CLIPS = 1_000
FEWEST_CLIPS = 200  # below that some instrument goes unobserved
MOST_CLIPS = 20_000  # OpenMIC-2018's number: two hours of rendering on one core
CLIP_SECONDS = 10.0
SPARE_SECONDS = 0.2  # rendered beyond the clip
RATE = 22_050  # Hz, of the Ogg files
CLIPS_PER_ARTIST = 10
LINE_UP = 6  # instruments an artist has
TEST_FRACTION = 0.25
PARTS = (0.18, 0.32, 0.28, 0.15, 0.07)  # probability of 1..5 labelled parts in a clip
UNLABELLED_SHARE = 0.3  # of clips in which an instrument without a label sounds too
QUIETEST_DB = 10  # below the loudest part
PRESENT = 0.43  # fraction of observed labels that ask about a sounding instrument, as in OpenMIC


def make(root: str | Path, clips: int = CLIPS, seed: int = 0, nj: int = 1) -> None:
    """Render the corpus into `root` (same seed, same bytes); files that are there already are kept.

    Args:
        root: folder, made in OpenMIC-2018's layout.
        clips: number of clips, from FEWEST_CLIPS to MOST_CLIPS.
        seed: of everything.
        nj: processes.

    Raises:
        ValueError: too few or too many clips.
        RuntimeError: a process was killed; the clips that are done stay.
    """
    if not FEWEST_CLIPS <= clips <= MOST_CLIPS:
        raise ValueError(
            f"a built-in corpus of {clips} clips; expected {FEWEST_CLIPS} to {MOST_CLIPS} (--clips)"
        )
    root = Path(root)
    jobs = [(root, seed, artist, clip) for artist in _artists(seed, clips) for clip in artist.clips]
    todo = [job for job in jobs if not audio_path(root, key(job[3])).is_file()]
    if todo:
        with processes.pool(min(nj, len(todo))) as pool:
            rendered = pool.map(_render_clip, todo)
            for _ in tqdm(rendered, "render", len(todo), unit="clip"):
                pass
    _write_tables(root, jobs)


def key(clip):
    """OpenMIC's sample_key: track number and first sample."""
    return f"{clip:06d}_0"


def audio_path(root, sample_key):
    """Where OpenMIC keeps a clip: audio/<first three characters>/<sample_key>.ogg."""
    return Path(root) / "audio" / sample_key[:3] / f"{sample_key}.ogg"


@dataclass(frozen=True)
class Artist:
    number: int
    split: str
    line_up: tuple  # class names
    clips: range


def _artists(seed, clips):
    """Deal line-ups from shuffled decks of the classes, so that each is played equally often."""
    rng = np.random.default_rng([seed, 0])
    count = -(-clips // CLIPS_PER_ARTIST)
    test = set(rng.choice(count, round(TEST_FRACTION * count), replace=False).tolist())
    deck, artists = [], []
    for number in range(count):
        line_up = []
        while len(line_up) < LINE_UP:
            deck = deck or rng.permutation(CLASSES).tolist()
            fresh = next((i for i, name in enumerate(deck) if name not in line_up), None)
            if fresh is None:
                deck += rng.permutation(CLASSES).tolist()
                continue
            line_up.append(deck.pop(fresh))
        own = range(number * CLIPS_PER_ARTIST, min(clips, (number + 1) * CLIPS_PER_ARTIST))
        artists.append(Artist(number, "test" if number in test else "train", tuple(line_up), own))
    return artists


def _draw_parts(seed, artist, clip):
    """The instruments of a clip: list of (name, level in dB), the loudest at 0 dB."""
    rng = np.random.default_rng([seed, 1, clip])
    count = 1 + rng.choice(len(PARTS), p=PARTS)
    names = list(rng.choice(artist.line_up, count, replace=False))
    if rng.random() < UNLABELLED_SHARE:
        names.append(rng.choice(sorted(UNLABELLED)))
    levels = rng.uniform(-QUIETEST_DB, 0, len(names))
    return list(zip(map(str, names), levels - levels.max(), strict=True))


def _draw_labels(seed, artist, clip):
    """Observed labels of a clip, {instrument: relevance}: three votes, weighted by trust."""
    levels = dict(_draw_parts(seed, artist, clip))
    present = [name for name in levels if name in INSTRUMENTS]
    confusable = sorted({other for name in present for other in siblings(name)} - set(present))
    rng = np.random.default_rng([seed, 2, clip])
    labels = {}
    for _ in range(min(1 + rng.poisson(1.06), 8)):
        pool = present if rng.random() < PRESENT else confusable if rng.random() < 0.5 else CLASSES
        pool = [
            name for name in pool if name not in labels and (pool is present or name not in present)
        ]
        if not pool:
            continue
        name = str(rng.choice(pool))
        trust = rng.uniform(0.85, 0.99, 3)
        if name in present:
            hears = trust - 0.03 * max(0.0, -levels[name] - 5)  # quiet parts are missed more often
        else:
            hears = (1 - trust) * (1.0 if name in confusable else 0.5)
        votes = rng.random(3) < hears
        labels[name] = round(float(votes @ trust / trust.sum()), 5)
    return labels


@dataclass(frozen=True)
class Style:
    """What an artist's clips have in common.

    Attributes:
        room: a soundfont.Room.
        tempo: beats per minute.
        cents: how far the artist is tuned above concert pitch.
        loudness_db: of the loudest sample.
        voices: {instrument: (program, semitones of body shift)}.
    """

    room: Room
    tempo: float
    cents: float
    loudness_db: float
    voices: dict

    @property
    def detune(self) -> float:
        """Factor of all frequencies, and of the speed at which a rendered clip is played."""
        return 2 ** (self.cents / 1200)

    @property
    def seconds(self) -> float:
        """Of sound to render for a whole clip: the higher the tuning, the shorter it is played."""
        whole = CLIP_SECONDS * self.detune + 10 / RATE
        return max(CLIP_SECONDS + SPARE_SECONDS, whole)


def _draw_style(seed, artist):
    """The Style of artist number `artist`."""
    rng = np.random.default_rng([seed, 3, artist])
    room = Room(rng, RATE, noise_db=(-70, -35))
    tempo = rng.uniform(70, 150)
    cents = rng.normal(0, 15)
    loudness_db = rng.uniform(-15, -1)
    voices = {
        name: _voice(rng, instrument) for name, instrument in (INSTRUMENTS | UNLABELLED).items()
    }
    return Style(room, tempo, cents, loudness_db, voices)


def _render_clip(job):
    root, seed, artist, clip = job
    style = _draw_style(seed, artist.number)
    rng = np.random.default_rng([seed, 4, clip])
    song_key = int(rng.integers(12))
    bar_seconds = 240 / (style.tempo * rng.uniform(0.95, 1.05))
    bars = harmony(rng, song_key, bar_seconds, style.seconds)
    parts = []
    for name, level in _draw_parts(seed, artist, clip):
        part = _render_part(rng, name, style.voices[name], bars, song_key, style.seconds)
        parts.append(part * 10 ** (level / 20))
    mix = soxr.resample(np.sum(parts, axis=0), RENDER_RATE * style.detune, RATE, quality="HQ")
    heard = style.room.record(mix[: round(CLIP_SECONDS * RATE)], rng)
    heard *= 10 ** ((style.loudness_db + rng.uniform(-2, 0)) / 20) / np.abs(heard).max()
    path = audio_path(root, key(clip))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, ogg_bytes(heard, RATE, serial=clip))


def _voice(rng, instrument):
    """An artist's own version of an instrument: (program, semitones of body shift)."""
    program = int(rng.choice(instrument.programs)) if instrument.programs else None
    return program, int(rng.integers(instrument.shift[0], instrument.shift[1] + 1))


def _render_part(rng, name, voice, bars, song_key, seconds):
    """One part, (seconds * 44100,) at an RMS of 1 while it plays."""
    instrument = (INSTRUMENTS | UNLABELLED)[name]
    program, shift = voice
    speed = SPEED_OF_SEMITONE**shift
    while True:
        enters, leaves = (
            (0.0, seconds)
            if rng.random() < 0.7
            else sorted(rng.uniform([0, seconds / 2], [seconds / 2, seconds]))
        )
        low, high = instrument.low, instrument.high
        if "bass" not in instrument.roles and high - low > 20:
            low += int(rng.integers(0, high - low - 19))
            high = min(high, low + 24)
        notes = write(str(rng.choice(instrument.roles)), rng, bars, song_key, low, high)
        transpose = 0 if program is None else shift
        notes = [
            (start * speed, length * speed, min(pitch - transpose, MAX_PITCH), velocity)
            for start, length, pitch, velocity in notes
            if enters <= start < leaves
        ]
        sound = render(program, notes, seconds * speed + 0.1) if notes else None
        if sound is None:
            continue
        sound = soxr.resample(sound, RENDER_RATE * speed, RENDER_RATE, quality="MQ")[
            : round(seconds * RENDER_RATE)
        ]
        active = sound[np.abs(sound) > 1e-3 * np.abs(sound).max()]
        if len(sound) == round(seconds * RENDER_RATE) and len(active) > RENDER_RATE / 2:
            return sound / np.sqrt(np.mean(active**2))


def ogg_bytes(sound, rate, serial):
    """Encode (n,) as Ogg Vorbis with a given serial number; the encoder would ask the clock."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format="OGG", subtype="VORBIS")
    data = bytearray(buffer.getvalue())
    page = 0
    while page < len(data):
        segments = data[page + 26]
        end = page + 27 + segments + sum(data[page + 27 : page + 27 + segments])
        data[page + 14 : page + 18] = serial.to_bytes(4, "little")
        data[page + 22 : page + 26] = bytes(4)
        data[page + 22 : page + 26] = _ogg_checksum(data[page:end]).to_bytes(4, "little")
        page = end
    return bytes(data)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page):
    """Ogg's CRC-32: zlib's polynomial with reversed bits, starting at zero, without inversion."""
    reflected = zlib.crc32(bytes(page).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _write_tables(root, jobs):
    """OpenMIC's tables: class map, aggregated labels, metadata and the two partitions."""
    labels, metadata, partitions = [], [], {"train": [], "test": []}
    for _, seed, artist, clip in jobs:
        name = key(clip)
        labels += [
            (name, instrument, relevance, 3)
            for instrument, relevance in sorted(_draw_labels(seed, artist, clip).items())
        ]
        metadata.append(
            (
                clip,
                artist.number,
                f"Artist {artist.number}",
                f"Piece {clip}",
                "generated",
                name,
                0.0,
            )
        )
        partitions[artist.split].append((name,))
    atomic.write_text(
        root / "class-map.json", json.dumps({name: i for i, name in enumerate(CLASSES)})
    )
    header = (
        "track_id",
        "artist_id",
        "artist_name",
        "track_title",
        "license_title",
        "sample_key",
        "start_time",
    )
    _write_csv(root / "openmic-2018-metadata.csv", [header, *metadata])
    _write_csv(
        root / "openmic-2018-aggregated-labels.csv",
        [("sample_key", "instrument", "relevance", "num_responses"), *labels],
    )
    for split, rows in partitions.items():
        _write_csv(root / "partitions" / f"split01_{split}.csv", rows)


def _write_csv(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    atomic.write_text(path, text.getvalue())
