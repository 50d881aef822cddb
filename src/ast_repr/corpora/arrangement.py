"""Music for the built-in corpus: its instruments, and plausible notes for each.

Conventions
    harmony: list of (start seconds, end seconds, pitch classes of the chord), one per bar.
    notes: list of (start seconds, duration seconds, MIDI pitch, velocity), as `soundfont.render`
        takes them.
    A role, such as "melody", is a function of a Part that returns notes.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np

Bar = tuple[float, float, np.ndarray]
Note = tuple[float, float, int, int]

KICK = 36
SNARES = (38, 40, 37)
TOMS = (41, 43, 45, 47, 48, 50)
HATS = (42, 46, 44)
RIDES = (51, 59, 53)
CRASHES = (49, 57, 52, 55)
MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])
PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (1, 4, 0, 0),
    (0, 3, 0, 4),
    (5, 3, 0, 4),
    (0, 2, 3, 4),
    (0, 0, 3, 3),
)
# Beats of a bar that are played.
CHORD_RHYTHMS = (
    (0, 1, 2, 3),
    (0, 1.5, 2, 3.5),
    (0, 2),
    (0.5, 1.5, 2.5, 3.5),
    (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5),
)
BASS_RHYTHMS = ((0, 2), (0, 1, 2, 3), (0, 1.5, 2, 3.5), (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5))
KICK_RHYTHMS = ((0, 2), (0, 1.5, 2), (0, 2, 2.5), (0, 1, 2, 3))


@dataclass(frozen=True)
class Instrument:
    """An instrument of the corpus.

    Attributes:
        programs: its General MIDI presets; none stands for the drum kit.
        low, high: MIDI range.
        roles: roles that it may play.
        shift: range of semitones by which its body may be smaller (formants higher).
    """

    programs: tuple[int, ...]
    low: int
    high: int
    roles: tuple[str, ...]
    shift: tuple[int, int] = (-2, 2)


INSTRUMENTS = {
    "accordion": Instrument((21, 23), 53, 84, ("chords", "melody")),
    "banjo": Instrument((105,), 50, 81, ("arpeggio",)),
    "bass": Instrument((32, 33, 34, 35, 36, 38, 39), 28, 50, ("bass",)),
    "cello": Instrument((42,), 36, 67, ("melody", "held")),
    "clarinet": Instrument((71,), 50, 86, ("melody",)),
    "cymbals": Instrument((), 42, 59, ("cymbals",)),
    "drums": Instrument((), 36, 50, ("drums",)),
    "flute": Instrument((73,), 60, 93, ("melody",)),
    "guitar": Instrument((24, 25, 26, 27, 29, 30), 40, 76, ("chords", "arpeggio", "melody")),
    "mallet_percussion": Instrument((9, 11, 12, 13), 60, 91, ("arpeggio", "melody")),
    # Steel strings on a small body, in tremolo.
    "mandolin": Instrument((25,), 55, 88, ("tremolo",), (4, 7)),
    "organ": Instrument((16, 17, 18, 19, 20), 40, 84, ("held_chords", "chords")),
    "piano": Instrument((0, 1, 2, 3), 36, 88, ("chords", "arpeggio", "melody")),
    "saxophone": Instrument((64, 65, 66), 46, 80, ("melody",)),
    "synthesizer": Instrument(
        (80, 81, 84, 87, 88, 89, 90, 93, 95), 40, 84, ("held_chords", "arpeggio", "melody")
    ),
    "trombone": Instrument((57,), 38, 70, ("melody", "held")),
    "trumpet": Instrument((56, 59), 54, 84, ("melody",)),
    # Nylon strings on a small body, strummed.
    "ukulele": Instrument((24,), 60, 84, ("chords",), (4, 7)),
    "violin": Instrument((40, 110), 55, 93, ("melody", "held")),
    "voice": Instrument((52, 53, 54), 48, 79, ("held", "melody")),
}
# They play in some clips and have no label, as in any real collection.
UNLABELLED = {
    "harp": Instrument((46,), 40, 88, ("arpeggio",)),
    "oboe": Instrument((68,), 58, 88, ("melody",)),
    "bassoon": Instrument((70,), 34, 67, ("melody", "held")),
    "horn": Instrument((60,), 41, 74, ("held", "melody")),
    "harmonica": Instrument((22,), 60, 88, ("melody",)),
    "strings": Instrument((48, 49), 40, 84, ("held_chords",)),
    "sitar": Instrument((104,), 48, 76, ("melody",)),
    "harpsichord": Instrument((6,), 40, 84, ("arpeggio", "chords")),
    "pan flute": Instrument((75,), 60, 88, ("melody",)),
}
FAMILIES = (
    ("accordion", "organ", "synthesizer"),
    ("banjo", "guitar", "mandolin", "ukulele"),
    ("cello", "violin", "voice"),
    ("clarinet", "flute", "saxophone"),
    ("trombone", "trumpet", "saxophone"),
    ("cymbals", "drums"),
    ("piano", "mallet_percussion", "guitar"),
    ("bass", "cello", "trombone"),
)


def siblings(instrument: str) -> list[str]:
    """List the instruments that a listener easily confuses with this one."""
    others = set()
    for family in FAMILIES:
        if instrument in family:
            others.update(family)
    return sorted(others - {instrument})


def harmony(rng: np.random.Generator, key: int, bar_s: float, seconds: float) -> list[Bar]:
    """Draw a progression of diatonic triads, one per bar, that covers `seconds`."""
    degrees = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    bars = []
    time = 0.0
    while time < seconds:
        degree = degrees[len(bars) % len(degrees)]
        triad = MAJOR[(degree + np.array([0, 2, 4])) % 7]
        bars.append((time, time + bar_s, (key + triad) % 12))
        time += bar_s
    return bars


@dataclass(frozen=True)
class Part:
    """A part that is to be written: its harmony, its key's pitch classes and its MIDI range."""

    rng: np.random.Generator
    bars: list[Bar]
    scale: np.ndarray
    low: int
    high: int

    def pitches(self, pitch_classes: Container[int]) -> list[int]:
        """List the pitches of the range that have one of the pitch classes."""
        return [pitch for pitch in range(self.low, self.high + 1) if pitch % 12 in pitch_classes]

    def velocity(self, centre: int = 88) -> int:
        """Draw the velocity of a note."""
        return int(np.clip(self.rng.normal(centre, 12), 30, 120))

    def choose(self, items: tuple) -> Any:
        """Draw one of the items."""
        return items[self.rng.integers(len(items))]


def write(
    role: str, rng: np.random.Generator, bars: list[Bar], key: int, low: int, high: int
) -> list[Note]:
    """Write one part in a role, within `low`..`high`, that follows the harmony."""
    return ROLES[role](Part(rng, bars, (key + MAJOR) % 12, low, high))


def _melody(part: Part, repeats: int = 1) -> list[Note]:
    """Draw a walk on the scale with a chord tone at each bar, `repeats` notes per eighth."""
    pitches = part.pitches(part.scale)
    quarter = len(pitches) // 4
    position = part.rng.integers(quarter, max(quarter + 1, 3 * len(pitches) // 4))
    beat = (part.bars[0][1] - part.bars[0][0]) / 4
    lengths = part.rng.choice([0.5, 1, 1.5, 2], size=4) * beat
    notes = []
    for start, end, chord in part.bars:
        time = start
        while time < end - 0.01:
            length = min(part.rng.choice(lengths), end - time)
            position = int(np.clip(position + part.rng.integers(-2, 3), 0, len(pitches) - 1))
            if time == start:
                position = _nearest_chord_tone(pitches, position, chord)
            if part.rng.random() > 0.12:
                count = max(1, round(repeats * length / beat * 2))
                for k in range(count):
                    onset = time + k * length / count
                    duration = 0.95 * length / count
                    notes.append((onset, duration, pitches[position], part.velocity()))
            time += length
    return notes


def _nearest_chord_tone(pitches: list[int], position: int, chord: np.ndarray) -> int:
    """Return the index of the chord tone nearest to pitches[position]."""
    return min(range(len(pitches)), key=lambda i: (pitches[i] % 12 not in chord, abs(i - position)))


def _tremolo(part: Part) -> list[Note]:
    return _melody(part, repeats=part.rng.choice([2, 3]))


def _held(part: Part, voices: int = 1) -> list[Note]:
    notes = []
    for start, end, chord in part.bars:
        tones = part.pitches(chord)
        first = part.rng.integers(0, max(1, len(tones) - voices + 1))
        for pitch in tones[first : first + voices]:
            notes.append((start, 0.98 * (end - start), pitch, part.velocity(80)))
    return notes


def _held_chords(part: Part) -> list[Note]:
    return _held(part, voices=3)


def _chords(part: Part) -> list[Note]:
    """Draw strummed chords in one rhythm: the lower notes come slightly earlier."""
    rhythm = part.choose(CHORD_RHYTHMS)
    spread_s = part.rng.uniform(0, 0.03)
    notes = []
    for start, end, chord in part.bars:
        beat = (end - start) / 4
        tones = part.pitches(chord)
        first = part.rng.integers(0, max(1, len(tones) - 4))
        for at in rhythm:
            for k, pitch in enumerate(tones[first : first + 4]):
                onset = start + at * beat + k * spread_s
                length = beat * part.rng.uniform(0.6, 1.6)
                notes.append((onset, length, pitch, part.velocity()))
    return notes


def _arpeggio(part: Part) -> list[Note]:
    division = part.rng.choice([2, 3, 4])
    notes = []
    for start, end, chord in part.bars:
        step = (end - start) / 4 / division
        tones = part.pitches(chord)
        first = part.rng.integers(0, max(1, len(tones) - 4))
        figure = part.rng.permutation(tones[first : first + 4])
        for k in range(4 * division):
            notes.append((start + k * step, step * 1.5, figure[k % len(figure)], part.velocity()))
    return notes


def _bass(part: Part) -> list[Note]:
    rhythm = part.choose(BASS_RHYTHMS)
    notes = []
    for start, end, chord in part.bars:
        beat = (end - start) / 4
        roots = part.pitches(chord[:1])
        fifths = part.pitches(chord[2:])
        for at in rhythm:
            pool = fifths if part.rng.random() < 0.25 else roots
            length = beat * part.rng.uniform(0.5, 1.2)
            pitch = pool[part.rng.integers(min(2, len(pool)))]
            notes.append((start + at * beat, length, pitch, part.velocity(95)))
    return notes


def _drums(part: Part) -> list[Note]:
    snare = part.rng.choice(SNARES)
    toms = part.rng.choice(TOMS, 3)
    kicks = part.choose(KICK_RHYTHMS)
    notes = []
    for start, end, _ in part.bars:
        beat = (end - start) / 4
        for at in kicks:
            notes.append((start + at * beat, 0.3, KICK, part.velocity(100)))
        for at in (1, 3):
            notes.append((start + at * beat, 0.3, snare, part.velocity(95)))
        if part.rng.random() < 0.4:
            for k, tom in enumerate(toms):
                notes.append((start + (3 + k / 3) * beat, 0.3, tom, part.velocity(95)))
    return notes


def _cymbals(part: Part) -> list[Note]:
    keys = part.choose((HATS, RIDES))
    division = part.rng.choice([1, 2, 2, 3])
    notes = []
    for start, end, _ in part.bars:
        beat = (end - start) / 4
        if part.rng.random() < 0.5:
            notes.append((start, 1.0, part.rng.choice(CRASHES), part.velocity(95)))
        for k in range(4 * division):
            key = part.rng.choice(keys)
            notes.append((start + k * beat / division, 0.3, key, part.velocity(75)))
    return notes


ROLES = {
    "melody": _melody,
    "tremolo": _tremolo,
    "held": _held,
    "held_chords": _held_chords,
    "chords": _chords,
    "arpeggio": _arpeggio,
    "bass": _bass,
    "drums": _drums,
    "cymbals": _cymbals,
}
