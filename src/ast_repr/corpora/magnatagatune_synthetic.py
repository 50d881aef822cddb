"""The built-in corpus of tags, in MagnaTagATune's layout, rendered on first use.

A clip has a style, instruments, perhaps a voice, a tempo and a level, from which rules derive the
tags that hold: the truth. The labels are a random part of them, as the players of MagnaTagATune
rarely gave all synonyms. An artist has a style, presets, a tuning and a room, and one or two
albums, which may be in different splits: as in MagnaTagATune, 60 % of the test clips are by an
artist of the training split. Clips last ten seconds in place of 29, one window of AST's.
"""

import csv
import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import soxr
from tqdm import tqdm

from .. import atomic, processes
from ..audio import CLIP_SECONDS
from .arrangement import INSTRUMENTS, UNLABELLED, Instrument, harmony
from .magnatagatune import ANNOTATIONS, AUDIO, SPLIT_OF_FOLDER, TAGS, TRUTH
from .soundfont import RENDER_RATE, Room
from .synthetic import draw_voice, render_part

RATE = 16_000  # Hz
BIT_RATE = 32_000  # bit/s
ALBUMS = 170
CLIPS_PER_ALBUM = 10
FOLDERS = (*SPLIT_OF_FOLDER, "c")  # of consecutive albums: 12 in 17 train, 2 validation, 3 test
SPARE_SECONDS = 0.3  # rendered beyond a clip, for those that are tuned higher
SLOW_BPM = 80
FAST_BPM = 130
LOUD_DB = -5.0  # of the peak, relative to full scale
SOFT_DB = -16.0
QUIET_DB = -22.0
GIVEN = 0.8  # probability that a tag that holds is given; 0.4 for each of four synonyms
SYNONYMS = {
    "beat": ("beat", "beats"),
    "choir": ("choir", "choral"),
    "classical": ("classical", "classic"),
    "female": ("female", "woman", "female vocal", "female voice"),
    "male": ("male", "man", "male vocal", "male voice"),
    "no vocals": ("no vocals", "no vocal", "no voice"),
    "vocals": ("vocal", "vocals", "voice", "singing"),
}
_GUITAR = INSTRUMENTS["guitar"]
PARTS = {
    **{name: INSTRUMENTS[name] for name in ("banjo", "bass", "cello", "drums", "flute", "piano")},
    **{name: UNLABELLED[name] for name in ("harp", "harpsichord", "sitar", "strings")},
    "guitar": replace(_GUITAR, programs=(24, 25)),
    "electric guitar": replace(_GUITAR, programs=(26, 27)),
    "distorted guitar": replace(_GUITAR, programs=(29, 30), roles=("chords",)),
    "synth": INSTRUMENTS["synthesizer"],
    "pad": Instrument((89, 91, 92, 94, 95), 45, 79, ("held_chords",)),
    "effects": Instrument((96, 97, 98, 99, 101, 103), 40, 84, ("melody", "arpeggio", "tremolo")),
    "violin": replace(INSTRUMENTS["violin"], programs=(40,)),
    "fiddle": replace(INSTRUMENTS["violin"], programs=(110,)),
    "woman": Instrument((53, 54), 60, 79, ("melody",), (1, 4)),
    "man": Instrument((53, 54), 43, 59, ("melody",), (-5, -2)),
    "choir": Instrument((52,), 45, 79, ("held_chords",)),
}
TAGS_OF_PART = {  # of the others: their name, if it is a tag
    "electric guitar": ("guitar",),
    "distorted guitar": ("guitar",),
    "pad": ("synth",),
    "violin": ("violin", "strings"),
    "fiddle": ("violin", "strings"),
    "cello": ("cello", "strings"),
    "woman": ("female", "vocals"),
    "man": ("male", "vocals"),
    "choir": ("choir", "vocals"),
}


@dataclass(frozen=True)
class Style:
    """A style of music.

    Attributes:
        tags: they hold for each clip.
        sometimes: parts of which a clip has up to three.
        bpm: range of the tempo.
        peak_db: range of the peak's level, relative to full scale.
        always: parts of each clip.
        singers: one of them sings in each clip; "" is nobody.
    """

    tags: tuple[str, ...]
    sometimes: tuple[str, ...]
    bpm: tuple[float, float]
    peak_db: tuple[float, float]
    always: tuple[str, ...] = ()
    singers: tuple[str, ...] = ("",)


STYLES = {
    "classical": Style(
        tags=("classical",),
        sometimes=("violin", "cello", "flute", "piano", "harp", "strings", "guitar"),
        bpm=(55, 150),
        peak_db=(-30, -4),
    ),
    "baroque": Style(
        tags=("classical",),
        sometimes=("harpsichord", "violin", "cello", "flute", "strings"),
        bpm=(60, 150),
        peak_db=(-28, -6),
    ),
    "opera": Style(
        tags=("classical", "opera"),
        always=("strings",),
        sometimes=("violin", "cello", "flute", "harp"),
        singers=("woman", "woman", "man"),
        bpm=(55, 120),
        peak_db=(-26, -3),
    ),
    "choral": Style(
        tags=("classical",),
        sometimes=("strings", "cello", "harp"),
        singers=("choir",),
        bpm=(55, 100),
        peak_db=(-30, -8),
    ),
    "rock": Style(
        tags=("rock", "beat"),
        always=("electric guitar", "bass", "drums"),
        sometimes=("distorted guitar", "piano"),
        singers=("man", "woman", ""),
        bpm=(85, 160),
        peak_db=(-10, -1),
    ),
    "metal": Style(
        tags=("metal", "rock"),
        always=("distorted guitar", "bass", "drums"),
        sometimes=("electric guitar", "synth"),
        singers=("man", ""),
        bpm=(110, 180),
        peak_db=(-6, 0),
    ),
    "pop": Style(
        tags=("pop",),
        always=("bass", "drums"),
        sometimes=("piano", "guitar", "synth", "strings", "electric guitar"),
        singers=("woman", "man", "woman", ""),
        bpm=(75, 140),
        peak_db=(-14, -1),
    ),
    "country": Style(
        tags=("country",),
        always=("guitar",),
        sometimes=("banjo", "fiddle", "bass", "drums"),
        singers=("man", "woman", ""),
        bpm=(70, 150),
        peak_db=(-18, -2),
    ),
    "techno": Style(
        tags=("techno", "electronic", "dance", "beat"),
        always=("synth", "drums"),
        sometimes=("bass", "pad", "effects"),
        singers=("", "", "woman"),
        bpm=(120, 170),
        peak_db=(-8, 0),
    ),
    "electronic": Style(
        tags=("electronic",),
        always=("synth",),
        sometimes=("drums", "bass", "pad", "piano", "effects"),
        singers=("", "", "", "man"),
        bpm=(65, 135),
        peak_db=(-20, -2),
    ),
    "ambient": Style(
        tags=("ambient",),
        always=("pad",),
        sometimes=("synth", "effects", "piano", "guitar"),
        bpm=(50, 85),
        peak_db=(-32, -12),
    ),
    "new age": Style(
        tags=("new age", "ambient"),
        sometimes=("harp", "flute", "piano", "pad", "sitar"),
        singers=("", "", "choir"),
        bpm=(50, 95),
        peak_db=(-30, -10),
    ),
    "indian": Style(
        tags=("indian",),
        always=("sitar",),
        sometimes=("flute", "drums", "strings"),
        singers=("", "", "woman"),
        bpm=(60, 150),
        peak_db=(-24, -4),
    ),
    "weird": Style(
        tags=("weird",),
        always=("effects",),
        sometimes=("synth", "banjo", "harpsichord", "drums", "cello"),
        singers=("", "", "man"),
        bpm=(55, 170),
        peak_db=(-26, -1),
    ),
}


@dataclass(frozen=True)
class Album:
    """An album: its number and folder, the number of its artist's first album, and a style."""

    number: int
    folder: str
    artist: int
    style: str


@dataclass(frozen=True)
class Piece:
    """A clip that is to be rendered.

    Attributes:
        number: of the clip.
        album: that it belongs to.
        parts: {name in PARTS: level in dB}.
        bpm: beats per minute.
        peak_db: level of the peak, relative to full scale.
    """

    number: int
    album: Album
    parts: dict[str, float]
    bpm: float
    peak_db: float

    @property
    def mp3_path(self) -> str:
        """Path below the folder of the audio; the clip begins a multiple of its length in."""
        track, place = divmod(self.number % CLIPS_PER_ALBUM, 2)
        start = place * CLIP_SECONDS
        album = f"{self.album.folder}/artist_{self.album.artist}-album_{self.album.number}"
        return f"{album}-{track + 1:02d}-piece_{self.number}-{start}-{start + CLIP_SECONDS}.mp3"


Job = tuple[Path, int, Piece]  # (root, seed, piece)


def make(root: str | Path, albums: int = ALBUMS, seed: int = 0, nj: int = 1) -> None:
    """Render the corpus into `root`; existing files are kept. The same seed gives the same bytes.

    Args:
        root: folder, created in MagnaTagATune's layout, with the truth.
        albums: their number; each has ten clips.
        seed: seed of everything random.
        nj: number of processes.

    Raises:
        RuntimeError: a process was killed; finished clips are kept.
    """
    root = Path(root)
    pieces = []
    for album in _albums(seed, albums):
        first = album.number * CLIPS_PER_ALBUM
        for number in range(first, first + CLIPS_PER_ALBUM):
            pieces.append(_draw_piece(seed, album, number))
    jobs = [(root, seed, piece) for piece in pieces]
    todo = [job for job in jobs if not (root / AUDIO / job[2].mp3_path).is_file()]
    if todo:
        with processes.pool(min(nj, len(todo)), processes.keep_freed_memory) as pool:
            rendered = pool.map(_render, todo)
            for _ in tqdm(rendered, "render", len(todo), unit="clip", disable=None):
                pass
    _write_table(root / TRUTH, pieces, [tags(piece) for piece in pieces])
    _write_table(root / ANNOTATIONS, pieces, [_draw_labels(seed, piece) for piece in pieces])


def _albums(seed: int, count: int) -> list[Album]:
    """Draw the albums; the styles are equally frequent in each split."""
    rng = np.random.default_rng([seed, 0])
    folders = [FOLDERS[number % len(FOLDERS)] for number in range(count)]
    decks = {split: [] for split in SPLIT_OF_FOLDER.values()}
    numbers = {style: [] for style in STYLES}
    for number, folder in enumerate(folders):
        split = SPLIT_OF_FOLDER[folder]
        if not decks[split]:
            decks[split] = rng.permutation(list(STYLES)).tolist()
        numbers[decks[split].pop()].append(number)
    albums = []
    for style, members in numbers.items():
        members = rng.permutation(members).tolist()
        for place, number in enumerate(members):
            is_second = place % 3 == 1  # two albums in three are by an artist who has both
            artist = members[place - 1] if is_second else number
            albums.append(Album(number, folders[number], artist, style))
    return sorted(albums, key=lambda album: album.number)


def _draw_piece(seed: int, album: Album, number: int) -> Piece:
    rng = np.random.default_rng([seed, 1, number])
    style = STYLES[album.style]
    singer = str(rng.choice(style.singers))
    least = 0 if style.always or singer else 1
    count = rng.integers(least, min(3, len(style.sometimes)) + 1)
    names = [*style.always, *rng.choice(style.sometimes, count, replace=False).tolist()]
    parts = {name: float(rng.uniform(-10, 0)) for name in names}
    if singer:
        parts[singer] = float(rng.uniform(-4, 0))
    bpm = float(rng.uniform(*style.bpm))
    peak_db = float(rng.uniform(*style.peak_db))
    return Piece(number, album, parts, bpm, peak_db)


def tags(piece: Piece) -> set[str]:
    """Return the tags that hold for a clip."""
    facts = set(STYLES[piece.album.style].tags)
    for part in piece.parts:
        facts.update(TAGS_OF_PART.get(part, (part,)))
    if "vocals" not in facts:
        facts.add("no vocals")
    if len(piece.parts) == 1:
        facts.add("solo")
    if piece.bpm < SLOW_BPM:
        facts.add("slow")
    if piece.bpm > FAST_BPM:
        facts.add("fast")
    if piece.peak_db > LOUD_DB:
        facts.add("loud")
    if piece.peak_db < SOFT_DB and "drums" not in facts:
        facts.add("soft")
    if piece.peak_db < QUIET_DB:
        facts.add("quiet")
    words = set()
    for fact in facts:
        words.update(SYNONYMS.get(fact, (fact,)))
    return words & set(TAGS)  # bass and banjo are none


def _draw_labels(seed: int, piece: Piece) -> set[str]:
    """Draw the tags that players give to a clip, of those that hold; at least one."""
    rng = np.random.default_rng([seed, 2, piece.number])
    holding = sorted(tags(piece))
    synonyms = {word: len(words) for words in SYNONYMS.values() for word in words}
    given = set()
    while not given:
        for word in holding:
            if rng.random() < GIVEN / np.sqrt(synonyms.get(word, 1)):
                given.add(word)
    return given


@functools.lru_cache(maxsize=1)  # a process renders the clips of an album in a row
def _draw_sound(seed: int, artist: int) -> tuple[Room, float, dict[str, tuple]]:
    """Draw an artist's room, factor of all frequencies, and voices (see `draw_voice`)."""
    rng = np.random.default_rng([seed, 3, artist])
    room = Room(rng, RATE, CLIP_SECONDS * RATE, noise_db=(-70, -35))
    detune = 2 ** (rng.normal(0, 15) / 1200)
    voices = {name: draw_voice(rng, instrument) for name, instrument in PARTS.items()}
    return room, detune, voices


def _render(job: Job) -> None:
    root, seed, piece = job
    room, detune, voices = _draw_sound(seed, piece.album.artist)
    rng = np.random.default_rng([seed, 4, piece.number])
    seconds = CLIP_SECONDS * max(1.0, detune) + SPARE_SECONDS
    song_key = int(rng.integers(12))
    bars = harmony(rng, song_key, 240 / piece.bpm, seconds)
    mix = np.zeros(round(seconds * RENDER_RATE))
    for name, level in piece.parts.items():
        part = render_part(rng, PARTS[name], voices[name], bars, song_key, seconds)
        mix += part * 10 ** (level / 20)
    mix = soxr.resample(mix, RENDER_RATE * detune, RATE, quality="HQ")
    sound = room.record(mix[: CLIP_SECONDS * RATE], rng)
    sound *= 10 ** (piece.peak_db / 20) / np.abs(sound).max()
    path = root / AUDIO / piece.mp3_path
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, _mp3_bytes(sound))


def _mp3_bytes(sound: np.ndarray) -> bytes:
    """Encode (n,) as MagnaTagATune's files; soundfile's encoder takes twice as long."""
    buffer = io.BytesIO()
    frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
    frame.rate = RATE
    with av.open(buffer, "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.bit_rate = BIT_RATE
        stream.options = {"compression_level": "7"}  # the fast end of the scale
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def _write_table(path: Path, pieces: Iterable[Piece], tags_of_pieces: Iterable[set[str]]) -> None:
    """Write a table in MagnaTagATune's form, without the tags that are not among the 50."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["clip_id", *TAGS, "mp3_path"])
    for piece, words in zip(pieces, tags_of_pieces, strict=True):
        writer.writerow([piece.number, *(int(tag in words) for tag in TAGS), piece.mp3_path])
    atomic.write_text(path, text.getvalue())
