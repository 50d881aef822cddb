"""The built-in corpus of predominant instruments, in IRMAS' layout, rendered on first use.

A training recording has one predominant instrument, up to three quieter ones, and three excerpts of
3 s. A test recording has up to five predominant instruments, and four excerpts of 5 to 20 s in
which some of them play. The quieter parts are often bass, drums or others without a code, sometimes
one of the eleven: the truth names it, the labels do not. Files are 16-bit WAV as in IRMAS, but mono
at 22.05 kHz, a quarter of the size.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from .. import atomic, processes
from .arrangement import INSTRUMENTS, UNLABELLED, Instrument, harmony
from .irmas import CODES, PARTS, TRAIN, TRAIN_SECONDS, TRUTH
from .soundfont import RENDER_RATE, Room
from .synthetic import draw_voice, render_part

RATE = 22_050  # Hz
TRAIN_RECORDINGS = 500
TRAIN_EXCERPTS = 3  # of each
TEST_RECORDINGS = 75
TEST_EXCERPTS = 4
TEST_SECONDS = (5.0, 20.0)
GENRES = ("cla", "cou_fol", "jaz_blu", "lat_sou", "pop_roc")
FOLDERS = ("Part1", "IRTestingData-Part2", "Part3")  # in the parts, as in IRMAS
BACKING = {
    name: (INSTRUMENTS | UNLABELLED)[name]
    for name in ("bass", "drums", "cymbals", "synthesizer", "strings", "horn", "harmonica")
}
PREDOMINANT = (0.43, 0.42, 0.11, 0.03, 0.01)  # probability of 1..5 of them in a test excerpt
LINE_UP = 5  # predominant instruments of a test recording
QUIETER = (0.2, 0.35, 0.3, 0.15)  # probability of 0..3 quieter parts
CODED_SHARE = 0.3  # of quieter parts that are one of the eleven
PREDOMINANT_DB = (-4.0, 0.0)
QUIETER_DB = (-20.0, -9.0)
SPARE_SECONDS = 0.3  # rendered beyond an excerpt, for those that are tuned higher


def _instruments() -> dict[str, Instrument]:
    """Return the instrument of each code; IRMAS tells acoustic from electric guitars."""
    guitar = INSTRUMENTS["guitar"]
    special = {
        "gac": replace(guitar, programs=(24, 25)),
        "gel": replace(guitar, programs=(26, 27, 28, 29, 30)),
    }
    return {code: special.get(code) or INSTRUMENTS[name] for code, name in CODES.items()}


CODED = _instruments()


@dataclass(frozen=True)
class Excerpt:
    """A part of a recording, or several of equal length that are rendered as one.

    Attributes:
        files: paths below the root, of consecutive excerpts.
        seconds: length of each of them.
        predominant: its codes, sorted.
        parts: (code or name of a backing instrument, level in dB).
    """

    files: tuple[str, ...]
    seconds: float
    predominant: tuple[str, ...]
    parts: tuple[tuple[str, float], ...]


Job = tuple[Path, int, int, Excerpt]  # (root, seed, number of the recording, excerpt)


def make(
    root: str | Path,
    train: int = TRAIN_RECORDINGS,
    test: int = TEST_RECORDINGS,
    seed: int = 0,
    nj: int = 1,
) -> None:
    """Render the corpus into `root`; existing files are kept. The same seed gives the same bytes.

    Args:
        root: folder, created in IRMAS' layout.
        train, test: number of recordings.
        seed: seed of everything random.
        nj: number of processes.

    Raises:
        RuntimeError: a process was killed; finished excerpts are kept.
    """
    root = Path(root)
    jobs = [(root, seed, number, _training_excerpts(seed, number)) for number in range(train)]
    for number in range(train, train + test):
        for excerpt in _test_excerpts(seed, number):
            jobs.append((root, seed, number, excerpt))
    todo = [job for job in jobs if not all((root / name).is_file() for name in job[3].files)]
    if todo:
        with processes.pool(min(nj, len(todo))) as pool:
            rendered = pool.map(_render, todo)
            for _ in tqdm(rendered, "render", len(todo), unit="excerpt", disable=None):
                pass
    _write_labels(root, [excerpt for *_, excerpt in jobs])


def _training_excerpts(seed: int, number: int) -> Excerpt:
    """Draw a training recording; each class has as many as the others."""
    block, place = divmod(number, len(CODES))
    deck = np.random.default_rng([seed, 0, block]).permutation(list(CODES))
    code = str(deck[place])
    rng = np.random.default_rng([seed, 1, number])
    quieter = _draw_quieter(rng, [code])
    genre = str(rng.choice(GENRES))
    name = f"[{code}][{genre}]{number + 1:04d}"
    if rng.random() < 0.3:
        drums = "dru" if "drums" in dict(quieter) else str(rng.choice(["nod", "---"]))
        name = f"{number % 1000:03d}__[{code}][{drums}][{genre}]{number + 1:04d}"
    files = [f"{TRAIN}/{code}/{name}__{k + 1}.wav" for k in range(TRAIN_EXCERPTS)]
    return Excerpt(tuple(files), TRAIN_SECONDS, (code,), ((code, 0.0), *quieter))


def _test_excerpts(seed: int, number: int) -> list[Excerpt]:
    """Draw the excerpts of a test recording."""
    rng = np.random.default_rng([seed, 1, number])
    line_up = rng.permutation(list(CODES))[:LINE_UP]
    artist = "Émilie & Söhne" if number % 10 == 0 else f"Artist {number}"
    part = number % len(PARTS)
    excerpts = []
    for k in range(TEST_EXCERPTS):
        count = 1 + rng.choice(len(PREDOMINANT), p=PREDOMINANT)
        codes = sorted(map(str, rng.choice(line_up, count, replace=False)))
        parts = [(code, float(rng.uniform(*PREDOMINANT_DB))) for code in codes]
        parts += _draw_quieter(rng, codes)
        seconds = round(float(rng.uniform(*TEST_SECONDS)), 2)
        file = f"{PARTS[part]}/{FOLDERS[part]}/{artist} - Piece {number}-{k + 1}.wav"
        excerpts.append(Excerpt((file,), seconds, tuple(codes), tuple(parts)))
    return excerpts


def _draw_quieter(rng: np.random.Generator, taken: list[str]) -> list[tuple[str, float]]:
    """Draw the parts that are not predominant: (name, level in dB), none of `taken`."""
    parts = {}
    for _ in range(rng.choice(len(QUIETER), p=QUIETER)):
        kind = CODED if rng.random() < CODED_SHARE else BACKING
        names = [name for name in kind if name not in taken and name not in parts]
        parts[str(rng.choice(names))] = float(rng.uniform(*QUIETER_DB))
    return list(parts.items())


def _render(job: Job) -> None:
    root, seed, number, excerpt = job
    style = np.random.default_rng([seed, 2, number])  # the same for a recording's excerpts
    whole = excerpt.seconds * len(excerpt.files)
    samples = round(whole * RATE)
    room = Room(style, RATE, samples, noise_db=(-70, -35))
    bar_seconds = 240 / style.uniform(70, 150)
    detune = 2 ** (style.normal(0, 15) / 1200)
    loudness_db = style.uniform(-15, -1)
    voices = {name: draw_voice(style, instrument) for name, instrument in (CODED | BACKING).items()}
    rng = np.random.default_rng([seed, 3, number, round(100 * excerpt.seconds)])
    seconds = whole * max(1.0, detune) + SPARE_SECONDS
    song_key = int(rng.integers(12))
    bars = harmony(rng, song_key, bar_seconds, seconds)
    parts = []
    for name, level in excerpt.parts:
        instrument = (CODED | BACKING)[name]
        part = render_part(
            rng, instrument, voices[name], bars, song_key, seconds, may_rest=name in BACKING
        )
        parts.append(part * 10 ** (level / 20))
    mix = soxr.resample(np.sum(parts, axis=0), RENDER_RATE * detune, RATE, quality="HQ")
    sound = room.record(mix[:samples], rng)
    sound *= 10 ** (loudness_db / 20) / np.abs(sound).max()
    for file, part in zip(excerpt.files, np.split(sound, len(excerpt.files)), strict=True):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, _wav_bytes(part))


def _wav_bytes(sound: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _write_labels(root: Path, excerpts: Iterable[Excerpt]) -> None:
    """Write the .txt of the test excerpts, with IRMAS' tab at the end of a line, and the truth."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip", *CODES])
    for excerpt in excerpts:
        playing = {name for name, _ in excerpt.parts}
        for file in excerpt.files:
            path = root / file
            folder = path.parent.name
            if not file.startswith(TRAIN):
                folder = "test"
                lines = [f"{code}\t\n" for code in excerpt.predominant]
                atomic.write_text(path.with_suffix(".txt"), "".join(lines))
            writer.writerow([f"{folder}/{path.stem}", *(int(code in playing) for code in CODES)])
    atomic.write_text(root / TRUTH, text.getvalue())
