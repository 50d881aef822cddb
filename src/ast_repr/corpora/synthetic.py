"""The built-in corpus: polyphonic music in OpenMIC-2018's layout, rendered on first use.

An artist has a line-up of instruments and its own presets, body sizes, tuning, tempo, room, noise
and level; test artists do not occur in training. A clip has one to five parts, some of them late or
barely audible, and in three clips of ten an instrument without a label. Labels are like OpenMIC's:
about two per clip, 43 % of them present, most absent ones plausible confusions, and each a weighted
vote of three fallible listeners, so that no method reaches 100 %.
"""

import csv
import functools
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import symusic
from tqdm import tqdm

from .. import atomic, ogg, processes
from ..audio import CLIP_SECONDS
from .arrangement import INSTRUMENTS, UNLABELLED, Bar, Instrument, harmony, siblings, write
from .openmic import audio_path
from .soundfont import (
    MAX_PITCH,
    RENDER_RATE,
    SPEED_OF_SEMITONE,
    Room,
    default_soundfont,
    make_synthesizer,
    render,
)

CLASSES = sorted(INSTRUMENTS)  # the twenty of OpenMIC-2018
FEWEST_CLIPS = 200  # with fewer some instrument is unobserved
MOST_CLIPS = 20_000  # OpenMIC-2018's number: half an hour of rendering on one core
SPARE_SECONDS = 0.2  # rendered beyond the clip
RATE = 22_050  # Hz, of the Ogg files
CLIPS_PER_ARTIST = 10
LINE_UP = 6  # instruments per artist
TEST_FRACTION = 0.25
PARTS = (0.18, 0.32, 0.28, 0.15, 0.07)  # probability of 1..5 labelled parts in a clip
UNLABELLED_SHARE = 0.3  # of clips with an instrument that has no label
QUIETEST_DB = 10  # below the loudest part
ASKED_PRESENT = 0.43  # share of labels that ask about an instrument of the clip, as in OpenMIC
EXAMPLE_SEED = 1  # of clips to try models on; the corpus has seed 0


@dataclass(frozen=True)
class Artist:
    """An artist: number, split, class names of its instruments, and numbers of its clips."""

    number: int
    split: str
    line_up: tuple[str, ...]
    clips: range


Job = tuple[Path, int, Artist, int]  # (root, seed, artist, clip number)


def make(root: str | Path, clips: int, seed: int = 0, nj: int = 1) -> None:
    """Render the corpus into `root`. The same seed and number of clips give the same bytes.

    Clips of the same seed and number are kept; others are rendered again, since what each contains
    depends on both.

    Args:
        root: folder, created in OpenMIC-2018's layout.
        clips: number of clips, from FEWEST_CLIPS to MOST_CLIPS.
        seed: seed of everything random.
        nj: number of processes.

    Raises:
        ValueError: too few or too many clips.
        RuntimeError: a process was killed; finished clips are kept.
    """
    if not FEWEST_CLIPS <= clips <= MOST_CLIPS:
        raise ValueError(
            f"a built-in corpus of {clips} clips; expected {FEWEST_CLIPS} to {MOST_CLIPS} (--clips)"
        )
    root = Path(root)
    _discard_others(root, {"clips": clips, "seed": seed})
    jobs = [(root, seed, artist, clip) for artist in _artists(seed, clips) for clip in artist.clips]
    todo = [job for job in jobs if not audio_path(root, key(job[3])).is_file()]
    if todo:
        with processes.pool(min(nj, len(todo)), processes.keep_freed_memory) as pool:
            rendered = pool.map(_render_clip, todo)
            for _ in tqdm(rendered, "render", len(todo), unit="clip", disable=None):
                pass
    _write_tables(root, jobs)


def _discard_others(root: Path, made_from: dict[str, int]) -> None:
    """Remove the clips in `root`, unless they were rendered from these settings."""
    record = root / "made_from.json"
    text = json.dumps(made_from)
    if record.is_file() and record.read_bytes() == text.encode():
        return
    if (root / "audio").is_dir():
        shutil.rmtree(root / "audio")
    root.mkdir(parents=True, exist_ok=True)
    atomic.write_text(record, text)


def example_truth(number: int) -> dict[str, bool]:
    """Tell which classes sound in example `number`, a clip that is in no corpus."""
    artist, clip = _example(number)
    parts = dict(_draw_parts(EXAMPLE_SEED, artist, clip))
    return {name: name in parts for name in CLASSES}


def render_example(root: str | Path, number: int) -> Path:
    """Render example `number` into `root`, and return its path."""
    artist, clip = _example(number)
    _render_clip((Path(root), EXAMPLE_SEED, artist, clip))
    return audio_path(root, key(clip))


def _example(number: int) -> tuple[Artist, int]:
    """Return the artist and the clip of an example; each is by another artist."""
    artist = _artists(EXAMPLE_SEED, (number + 1) * CLIPS_PER_ARTIST)[number]
    return artist, artist.clips[0]


def key(clip: int) -> str:
    """Return OpenMIC's sample_key of a clip: track number and first sample."""
    return f"{clip:06d}_0"


def _artists(seed: int, clips: int) -> list[Artist]:
    """Deal line-ups from shuffled decks of the classes, so that each is played equally often."""
    rng = np.random.default_rng([seed, 0])
    count = -(-clips // CLIPS_PER_ARTIST)
    test = set(rng.choice(count, round(TEST_FRACTION * count), replace=False).tolist())
    deck = []
    artists = []
    for number in range(count):
        line_up = []
        while len(line_up) < LINE_UP:
            deck = deck or rng.permutation(CLASSES).tolist()
            fresh = next((i for i, name in enumerate(deck) if name not in line_up), None)
            if fresh is None:
                deck += rng.permutation(CLASSES).tolist()
                continue
            line_up.append(deck.pop(fresh))
        first = number * CLIPS_PER_ARTIST
        numbers = range(first, min(clips, first + CLIPS_PER_ARTIST))
        split = "test" if number in test else "train"
        artists.append(Artist(number, split, tuple(line_up), numbers))
    return artists


def _draw_parts(seed: int, artist: Artist, clip: int) -> list[tuple[str, float]]:
    """Draw the instruments of a clip: list of (name, level in dB), the loudest at 0 dB."""
    rng = np.random.default_rng([seed, 1, clip])
    count = 1 + rng.choice(len(PARTS), p=PARTS)
    names = list(rng.choice(artist.line_up, count, replace=False))
    if rng.random() < UNLABELLED_SHARE:
        names.append(rng.choice(sorted(UNLABELLED)))
    levels = rng.uniform(-QUIETEST_DB, 0, len(names))
    return list(zip(map(str, names), levels - levels.max(), strict=True))


def _draw_labels(seed: int, artist: Artist, clip: int) -> dict[str, float]:
    """Draw the observed labels of a clip, {instrument: relevance}: three weighted votes."""
    levels = dict(_draw_parts(seed, artist, clip))
    present = [name for name in levels if name in INSTRUMENTS]
    confusable = set()
    for name in present:
        confusable.update(siblings(name))
    confusable = sorted(confusable - set(present))
    rng = np.random.default_rng([seed, 2, clip])
    labels = {}
    for _ in range(min(1 + rng.poisson(1.06), 8)):
        if rng.random() < ASKED_PRESENT:
            pool = present
        else:
            pool = confusable if rng.random() < 0.5 else CLASSES
            pool = [name for name in pool if name not in present]
        pool = [name for name in pool if name not in labels]
        if not pool:
            continue
        name = str(rng.choice(pool))
        trust = rng.uniform(0.85, 0.99, 3)
        if name in present:
            says_present = trust - 0.03 * max(0.0, -levels[name] - 5)  # quiet parts are missed
        else:
            says_present = (1 - trust) * (1.0 if name in confusable else 0.5)
        votes = rng.random(3) < says_present
        labels[name] = round(float(votes @ trust / trust.sum()), 5)
    return labels


@dataclass(frozen=True)
class Style:
    """Properties that an artist's clips share.

    Attributes:
        room: where they are recorded.
        tempo: beats per minute.
        cents: tuning above concert pitch.
        loudness_db: of the loudest sample.
        voices: {instrument: (program, semitones of body shift)}.
    """

    room: Room
    tempo: float
    cents: float
    loudness_db: float
    voices: dict[str, tuple[int | None, int]]

    @property
    def detune(self) -> float:
        """Factor of all frequencies, and of the speed at which a rendered clip is played."""
        return 2 ** (self.cents / 1200)

    @property
    def seconds(self) -> float:
        """Seconds to render for a whole clip: with a higher tuning it is played faster."""
        whole = CLIP_SECONDS * self.detune + 10 / RATE
        return max(CLIP_SECONDS + SPARE_SECONDS, whole)


@functools.lru_cache(maxsize=1)  # a process renders the clips of an artist in a row
def _draw_style(seed: int, artist: int) -> Style:
    """Draw the Style of artist number `artist`."""
    rng = np.random.default_rng([seed, 3, artist])
    room = Room(rng, RATE, CLIP_SECONDS * RATE, noise_db=(-70, -35))
    tempo = rng.uniform(70, 150)
    cents = rng.normal(0, 15)
    loudness_db = rng.uniform(-15, -1)
    voices = {}
    for name, instrument in (INSTRUMENTS | UNLABELLED).items():
        voices[name] = draw_voice(rng, instrument)
    return Style(room, tempo, cents, loudness_db, voices)


def draw_voice(rng: np.random.Generator, instrument: Instrument) -> tuple[int | None, int]:
    """Draw an artist's version of an instrument: (program, semitones of body shift)."""
    program = int(rng.choice(instrument.programs)) if instrument.programs else None
    return program, int(rng.integers(instrument.shift[0], instrument.shift[1] + 1))


def _render_clip(job: Job) -> None:
    root, seed, artist, clip = job
    style = _draw_style(seed, artist.number)
    rng = np.random.default_rng([seed, 4, clip])
    song_key = int(rng.integers(12))
    bar_seconds = 240 / (style.tempo * rng.uniform(0.95, 1.05))
    bars = harmony(rng, song_key, bar_seconds, style.seconds)
    mix = np.zeros(round(style.seconds * RENDER_RATE))
    for name, level in _draw_parts(seed, artist, clip):
        instrument = (INSTRUMENTS | UNLABELLED)[name]
        part = render_part(rng, instrument, style.voices[name], bars, song_key, style.seconds)
        mix += part * 10 ** (level / 20)
    mix = soxr.resample(mix, RENDER_RATE * style.detune, RATE, quality="HQ")
    recorded = style.room.record(mix[: CLIP_SECONDS * RATE], rng)
    recorded *= 10 ** ((style.loudness_db + rng.uniform(-2, 0)) / 20) / np.abs(recorded).max()
    path = audio_path(root, key(clip))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, ogg_bytes(recorded, RATE, serial=clip))


@functools.cache
def _synthesizer(program: int | None) -> symusic.core.Synthesizer:
    """Return this process's synthesizer of one preset.

    Loading a preset's samples takes ten times as long as playing a part. Each synthesizer has one,
    since the sound of some presets depends on those that were played before.
    """
    return make_synthesizer(default_soundfont())


def render_part(
    rng: np.random.Generator,
    instrument: Instrument,
    voice: tuple[int | None, int],
    bars: list[Bar],
    song_key: int,
    seconds: float,
    may_rest: bool = True,
) -> np.ndarray:
    """Render one part, (seconds * 44100,), at an RMS of 1 while it plays.

    Args:
        voice: from `draw_voice`.
        bars: from `arrangement.harmony`.
        may_rest: three parts in ten enter late and leave early.
    """
    program, shift = voice
    speed = SPEED_OF_SEMITONE**shift
    transpose = 0 if program is None else shift
    samples = round(seconds * RENDER_RATE)
    while True:
        enters = 0.0
        leaves = seconds
        if may_rest and rng.random() >= 0.7:
            enters, leaves = sorted(rng.uniform([0, seconds / 2], [seconds / 2, seconds]))
        low = instrument.low
        high = instrument.high
        if "bass" not in instrument.roles and high - low > 20:
            low += int(rng.integers(0, high - low - 19))
            high = min(high, low + 24)
        notes = []
        role = str(rng.choice(instrument.roles))
        for start, length, pitch, velocity in write(role, rng, bars, song_key, low, high):
            if enters <= start < leaves:
                pitch = min(pitch - transpose, MAX_PITCH)
                notes.append((start * speed, length * speed, pitch, velocity))
        if not notes:
            continue
        sound = render(program, notes, seconds * speed + 0.1, _synthesizer(program))
        if sound is None:
            _synthesizer.cache_clear()  # one that has diverged may play other notes differently
            continue
        sound = soxr.resample(sound, RENDER_RATE * speed, RENDER_RATE, quality="MQ")[:samples]
        active = sound[np.abs(sound) > 1e-3 * np.abs(sound).max()]
        if len(sound) == samples and len(active) > RENDER_RATE / 2:
            return sound / np.sqrt(np.mean(active**2))


def ogg_bytes(sound: np.ndarray, rate: int, serial: int) -> bytes:
    """Encode (n,) as Ogg Vorbis with a fixed serial number; the encoder's depends on the clock."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format="OGG", subtype="VORBIS")
    return ogg.with_serial(buffer.getvalue(), serial)


def _write_tables(root: Path, jobs: Iterable[Job]) -> None:
    """Write OpenMIC's tables, and the truth: which instruments each clip has."""
    labels = [("sample_key", "instrument", "relevance", "num_responses")]
    header = "track_id artist_id artist_name track_title license_title sample_key start_time"
    metadata = [tuple(header.split())]
    truth = [("sample_key", *CLASSES)]
    partitions = {"train": [], "test": []}
    for _, seed, artist, clip in jobs:
        name = key(clip)
        for instrument, relevance in sorted(_draw_labels(seed, artist, clip).items()):
            labels.append((name, instrument, relevance, 3))
        parts = dict(_draw_parts(seed, artist, clip))
        truth.append((name, *(int(instrument in parts) for instrument in CLASSES)))
        artist_name = f"Artist {artist.number}"
        title = f"Piece {clip}"
        metadata.append((clip, artist.number, artist_name, title, "generated", name, 0.0))
        partitions[artist.split].append((name,))
    class_map = {name: i for i, name in enumerate(CLASSES)}
    atomic.write_text(root / "class-map.json", json.dumps(class_map))
    _write_csv(root / "openmic-2018-metadata.csv", metadata)
    _write_csv(root / "openmic-2018-aggregated-labels.csv", labels)
    _write_csv(root / "truth.csv", truth)
    for split, rows in partitions.items():
        _write_csv(root / "partitions" / f"split01_{split}.csv", rows)


def _write_csv(path: Path, rows: Iterable[tuple]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    atomic.write_text(path, text.getvalue())
