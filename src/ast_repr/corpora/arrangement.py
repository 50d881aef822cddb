"""Music for the built-in corpus: its instruments, and the notes that each could plausibly play.

Conventions
    harmony: list of (start seconds, end seconds, pitch classes of the chord); bars of a common
        chord progression.
    notes: list of (start seconds, duration seconds, MIDI pitch, velocity), as `soundfont.render`
        takes them.
"""

from dataclasses import dataclass

import numpy as np

KICK, SNARES, TOMS = 36, (38, 40, 37), (41, 43, 45, 47, 48, 50)
HATS, RIDES, CRASHES = (42, 46, 44), (51, 59, 53), (49, 57, 52, 55)
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


@dataclass(frozen=True)
class Instrument:
    """An instrument of the corpus.

    Attributes:
        programs: General MIDI presets that count as it; none stands for the drum kit.
        low, high: MIDI range.
        roles: parts that it may play.
        shift: semitones by which its body may be made larger or smaller.
    """

    programs: tuple
    low: int
    high: int
    roles: tuple
    shift: tuple = (-2, 2)


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
    "mandolin": Instrument(
        (25,), 55, 88, ("tremolo",), (4, 7)
    ),  # steel strings on a small body, in tremolo
    "organ": Instrument((16, 17, 18, 19, 20), 40, 84, ("held_chords", "chords")),
    "piano": Instrument((0, 1, 2, 3), 36, 88, ("chords", "arpeggio", "melody")),
    "saxophone": Instrument((64, 65, 66), 46, 80, ("melody",)),
    "synthesizer": Instrument(
        (80, 81, 84, 87, 88, 89, 90, 93, 95), 40, 84, ("held_chords", "arpeggio", "melody")
    ),
    "trombone": Instrument((57,), 38, 70, ("melody", "held")),
    "trumpet": Instrument((56, 59), 54, 84, ("melody",)),
    "ukulele": Instrument(
        (24,), 60, 84, ("chords",), (4, 7)
    ),  # nylon strings on a small body, strummed
    "violin": Instrument((40, 110), 55, 93, ("melody", "held")),
    "voice": Instrument((52, 53, 54), 48, 79, ("held", "melody")),
}
# They sound in some clips and have no label, as in any real collection.
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


def siblings(instrument):
    """Instruments that a listener takes for this one more easily than the others."""
    return sorted(
        {other for family in FAMILIES if instrument in family for other in family} - {instrument}
    )


def harmony(rng, key, bar_s, seconds):
    """A progression of diatonic triads, one a bar, covering `seconds`."""
    degrees = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    bars, time = [], 0.0
    while time < seconds:
        degree = degrees[len(bars) % len(degrees)]
        bars.append((time, time + bar_s, (key + MAJOR[(degree + np.array([0, 2, 4])) % 7]) % 12))
        time += bar_s
    return bars


def write(role, rng, bars, key, low, high):
    """Notes of one part in a role, within `low`..`high`, following the harmony."""
    return ROLES[role](rng, bars, (key + MAJOR) % 12, low, high)


def _within(classes, low, high):
    return [pitch for pitch in range(low, high + 1) if pitch % 12 in classes]


def _velocity(rng, centre=88):
    return int(np.clip(rng.normal(centre, 12), 30, 120))


def _melody(rng, bars, scale, low, high, repeats=1):
    """A walk on the scale that lands on chord tones at each bar, `repeats` notes per eighth."""
    pitches = _within(scale, low, high)
    place = rng.integers(len(pitches) // 4, max(len(pitches) // 4 + 1, 3 * len(pitches) // 4))
    beat = (bars[0][1] - bars[0][0]) / 4
    lengths = rng.choice([0.5, 1, 1.5, 2], size=4) * beat
    notes = []
    for start, end, chord in bars:
        time, first = start, True
        while time < end - 0.01:
            length = min(rng.choice(lengths), end - time)
            place = int(np.clip(place + rng.integers(-2, 3), 0, len(pitches) - 1))
            if first:
                place = min(
                    range(len(pitches)),
                    key=lambda i: (pitches[i] % 12 not in chord, abs(i - place)),
                )
            first = False
            if rng.random() > 0.12:
                count = max(1, round(repeats * length / beat * 2))
                for k in range(count):
                    notes.append(
                        (
                            time + k * length / count,
                            0.95 * length / count,
                            pitches[place],
                            _velocity(rng),
                        )
                    )
            time += length
    return notes


def _tremolo(rng, bars, scale, low, high):
    return _melody(rng, bars, scale, low, high, repeats=rng.choice([2, 3]))


def _held(rng, bars, scale, low, high, voices=1):
    notes = []
    for start, end, chord in bars:
        tones = _within(chord, low, high)
        first = rng.integers(0, max(1, len(tones) - voices + 1))
        notes += [
            (start, 0.98 * (end - start), pitch, _velocity(rng, 80))
            for pitch in tones[first : first + voices]
        ]
    return notes


def _held_chords(rng, bars, scale, low, high):
    return _held(rng, bars, scale, low, high, voices=3)


def _chords(rng, bars, scale, low, high):
    """Chords in one rhythm throughout, strummed: the lower notes a little earlier."""
    pattern = [
        (0, 1, 2, 3),
        (0, 1.5, 2, 3.5),
        (0, 2),
        (0.5, 1.5, 2.5, 3.5),
        (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5),
    ][rng.integers(5)]
    spread_s = rng.uniform(0, 0.03)
    notes = []
    for start, end, chord in bars:
        beat = (end - start) / 4
        tones = _within(chord, low, high)
        first = rng.integers(0, max(1, len(tones) - 4))
        for at in pattern:
            for k, pitch in enumerate(tones[first : first + 4]):
                notes.append(
                    (
                        start + at * beat + k * spread_s,
                        beat * rng.uniform(0.6, 1.6),
                        pitch,
                        _velocity(rng),
                    )
                )
    return notes


def _arpeggio(rng, bars, scale, low, high):
    division = rng.choice([2, 3, 4])
    notes = []
    for start, end, chord in bars:
        step = (end - start) / 4 / division
        tones = _within(chord, low, high)
        first = rng.integers(0, max(1, len(tones) - 4))
        figure = rng.permutation(tones[first : first + 4])
        for k in range(4 * division):
            notes.append((start + k * step, step * 1.5, figure[k % len(figure)], _velocity(rng)))
    return notes


def _bass(rng, bars, scale, low, high):
    pattern = [(0, 2), (0, 1, 2, 3), (0, 1.5, 2, 3.5), (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)][
        rng.integers(4)
    ]
    notes = []
    for start, end, chord in bars:
        beat = (end - start) / 4
        roots, fifths = _within(chord[:1], low, high), _within(chord[2:], low, high)
        for at in pattern:
            pool = fifths if rng.random() < 0.25 else roots
            notes.append(
                (
                    start + at * beat,
                    beat * rng.uniform(0.5, 1.2),
                    pool[rng.integers(min(2, len(pool)))],
                    _velocity(rng, 95),
                )
            )
    return notes


def _drums(rng, bars, scale, low, high):
    snare, toms = rng.choice(SNARES), rng.choice(TOMS, 3)
    kicks = [(0, 2), (0, 1.5, 2), (0, 2, 2.5), (0, 1, 2, 3)][rng.integers(4)]
    notes = []
    for start, end, _ in bars:
        beat = (end - start) / 4
        notes += [(start + at * beat, 0.3, KICK, _velocity(rng, 100)) for at in kicks]
        notes += [(start + at * beat, 0.3, snare, _velocity(rng, 95)) for at in (1, 3)]
        if rng.random() < 0.4:
            notes += [
                (start + (3 + k / 3) * beat, 0.3, tom, _velocity(rng, 95))
                for k, tom in enumerate(toms)
            ]
    return notes


def _cymbals(rng, bars, scale, low, high):
    keys = (HATS, RIDES)[rng.integers(2)]
    division = rng.choice([1, 2, 2, 3])
    notes = []
    for start, end, _ in bars:
        beat = (end - start) / 4
        if rng.random() < 0.5:
            notes.append((start, 1.0, rng.choice(CRASHES), _velocity(rng, 95)))
        notes += [
            (start + k * beat / division, 0.3, rng.choice(keys), _velocity(rng, 75))
            for k in range(4 * division)
        ]
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
