"""The source task of the small AST: which of General MIDI's 175 sounds does a clip contain?

128 presets, one of which is never drawn, and 47 percussion keys. A clip of ten seconds has one to
four parts, rendered from several soundfonts: single notes, chords and phrases, drum rhythms, each
with shifted formants and at its own level, in a random room, sometimes through a lossy codec. All
that it contains is known.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pretty_midi
import soundfile
import soxr

from ..audio import CLIP_SECONDS, SAMPLE_RATE
from .arrangement import INSTRUMENTS, UNLABELLED, Note, harmony, write
from .soundfont import (
    MAX_PITCH,
    RENDER_RATE,
    SPEED_OF_SEMITONE,
    UNSTABLE_PRESET,
    Room,
    make_synthesizer,
    render,
)

PRESETS = 128
DRUM_KEYS = range(35, 82)  # General MIDI percussion
CLASSES = [
    *[pretty_midi.program_to_instrument_name(program) for program in range(PRESETS)],
    *[f"Drum: {pretty_midi.note_number_to_drum_name(key)}" for key in DRUM_KEYS],
]
FAMILY = 8  # presets
# Lowest and highest pitch, and roles, of General MIDI's sixteen families of presets.
FAMILIES = (
    (36, 88, ("chords", "arpeggio", "melody")),  # piano
    (55, 91, ("arpeggio", "melody")),  # chromatic percussion
    (40, 84, ("held_chords", "chords", "melody")),  # organ
    (40, 81, ("chords", "arpeggio", "melody", "tremolo")),  # guitar
    (28, 55, ("bass", "melody")),  # bass
    (36, 88, ("melody", "held", "arpeggio")),  # strings
    (40, 84, ("held_chords", "melody", "held")),  # ensemble
    (36, 82, ("melody", "held")),  # brass
    (40, 86, ("melody", "held")),  # reed
    (55, 93, ("melody", "held")),  # pipe
    (40, 88, ("melody", "arpeggio")),  # synth lead
    (36, 84, ("held_chords", "held")),  # synth pad
    (36, 84, ("held_chords", "melody")),  # synth effects
    (45, 84, ("melody", "arpeggio", "tremolo")),  # ethnic
    (40, 84, ("melody", "arpeggio")),  # percussive
    (36, 84, ("held", "melody")),  # sound effects
)
PARTS = (0.35, 0.3, 0.2, 0.15)  # probability of 1..4 parts
DRUMS_SHARE = 0.2  # of parts
COMMON_SHARE = 0.5  # of presets that are drawn from those that music uses most
SCATTERED_SHARE = 0.3  # of parts: notes at random, from a single one to a fast run
QUIETEST_DB = 12  # below the loudest part
FORMANT_SEMITONES = 3
CODECS = (None, "OGG", "MP3")


class Renderer:
    """Renders clips; it keeps its synthesizers, since loading samples takes most of the time.

    The same calls in the same order give the same clips: some presets depend on what their
    synthesizer played before.

    Args:
        soundfonts: files, from which each part draws one.
        rng: generator of everything random.
    """

    def __init__(self, soundfonts: Sequence[Path], rng: np.random.Generator):
        self.soundfonts = soundfonts
        self.rng = rng
        self.synthesizers = [make_synthesizer(path) for path in soundfonts]

    def clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Render the next clip.

        Returns:
            waveform float32 (160000,) at 16 kHz, and truth uint8 (175,): 1 for what it contains.
        """
        rng = self.rng
        key = int(rng.integers(12))
        bars = harmony(rng, key, 240 / rng.uniform(60, 160), CLIP_SECONDS)
        truth = np.zeros(len(CLASSES), np.uint8)
        mix = np.zeros(CLIP_SECONDS * SAMPLE_RATE, np.float32)
        for program in self._draw_programs():
            part, classes = self._part(program, bars, key)
            mix += part * 10 ** (rng.uniform(-QUIETEST_DB, 0) / 20)
            truth[classes] = 1
        recorded = Room(rng, SAMPLE_RATE, len(mix)).record(mix, rng)
        recorded *= 10 ** (rng.uniform(-30, -1) / 20) / np.abs(recorded).max()
        return _coded(recorded, CODECS[rng.integers(len(CODECS))], rng), truth

    def _draw_programs(self) -> list[int | None]:
        """Draw the presets of a clip; None stands for drums, which it has once at most."""
        common = set()
        for instrument in (INSTRUMENTS | UNLABELLED).values():
            common.update(instrument.programs)
        presets = [preset for preset in range(PRESETS) if preset != UNSTABLE_PRESET]
        programs = set()
        for _ in range(1 + self.rng.choice(len(PARTS), p=PARTS)):
            if self.rng.random() < DRUMS_SHARE:
                programs.add(None)
            elif self.rng.random() < COMMON_SHARE:
                programs.add(int(self.rng.choice(sorted(common))))
            else:
                programs.add(int(self.rng.choice(presets)))
        return sorted(programs, key=str)  # the order of a set is not the same in each process

    def _part(
        self, program: int | None, bars: list[tuple], key: int
    ) -> tuple[np.ndarray, list[int]]:
        """Render a part at an RMS of 1 while it plays: (waveform, the classes that it contains)."""
        rng = self.rng
        while True:
            number = rng.integers(len(self.synthesizers))
            # Playing the render faster or slower also shifts the formants.
            speed = SPEED_OF_SEMITONE ** rng.uniform(-FORMANT_SEMITONES, FORMANT_SEMITONES)
            notes = _notes(rng, program, bars, key)
            if not notes:
                continue
            fast = [(s * speed, length * speed, pitch, v) for s, length, pitch, v in notes]
            sound = render(program, fast, CLIP_SECONDS * speed, self.synthesizers[number])
            if sound is None:
                self.synthesizers[number] = make_synthesizer(self.soundfonts[number])
                continue
            sound = soxr.resample(sound, RENDER_RATE * speed, SAMPLE_RATE, quality="HQ")
            sound.resize(CLIP_SECONDS * SAMPLE_RATE, refcheck=False)  # off by one at most
            active = sound[np.abs(sound) > 1e-3 * np.abs(sound).max(initial=1e-3)]
            if len(active) > SAMPLE_RATE / 4:
                break
        if program is None:
            classes = [PRESETS + DRUM_KEYS.index(pitch) for _, _, pitch, _ in notes]
        else:
            classes = [program]
        return sound / np.sqrt(np.mean(active**2)), classes


def _notes(
    rng: np.random.Generator, program: int | None, bars: list[tuple], key: int
) -> list[Note]:
    """Write a part: notes that start within the clip, a third of the time in a section of it."""
    enters = 0.0
    leaves = CLIP_SECONDS - 0.3
    if rng.random() < 0.3:
        enters, leaves = sorted(rng.uniform([0, leaves / 2], [leaves / 2, leaves]))
    scattered = rng.random() < SCATTERED_SHARE
    if program is None and scattered:
        notes = _scattered_hits(rng)
    elif program is None:
        notes = []
        for role in [("drums",), ("cymbals",), ("drums", "cymbals")][rng.integers(3)]:
            notes += write(role, rng, bars, key, 0, 0)
    elif scattered:
        notes = _scattered_notes(rng)
    else:
        low, high, roles = FAMILIES[program // FAMILY]
        if high - low > 30:
            low += int(rng.integers(high - low - 24))
            high = low + 24
        notes = write(str(rng.choice(roles)), rng, bars, key, low, high)
    return [note for note in notes if enters <= note[0] < leaves]


def _scattered_notes(rng: np.random.Generator) -> list[Note]:
    """Draw a line or chords at random pitches: from a single held note to a fast run."""
    centre = rng.uniform(40, 84)
    spread = rng.uniform(1, 9)
    voices = rng.choice([1, 1, 1, 2, 3])
    step = rng.choice([0.12, 0.2, 0.35, 0.6, 1.2, 4.0])
    notes = []
    time = rng.uniform(0, 0.5)
    while time < CLIP_SECONDS:
        for pitch in rng.normal(centre, spread, voices):
            length = step * rng.uniform(0.4, 1.2)
            pitch = int(np.clip(round(pitch), 24, MAX_PITCH))
            notes.append((time, length, pitch, int(rng.integers(45, 127))))
        time += step * rng.uniform(0.8, 1.25)
    return notes


def _scattered_hits(rng: np.random.Generator) -> list[Note]:
    """Draw hits of one to three percussion keys, each in a loose rhythm."""
    notes = []
    for key in rng.choice(DRUM_KEYS, rng.integers(1, 4), replace=False):
        step = rng.choice([0.15, 0.3, 0.5, 1.0, 1.6])
        time = rng.uniform(0, 0.5)
        while time < CLIP_SECONDS:
            notes.append((time, 0.5, int(key), int(rng.integers(45, 127))))
            time += step * rng.uniform(0.7, 1.4)
    return notes


def _coded(sound: np.ndarray, codec: str | None, rng: np.random.Generator) -> np.ndarray:
    """Encode (n,) at a random quality, and decode it; None leaves it as it is."""
    if codec is None:
        return sound
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}[codec]
    file = io.BytesIO()
    soundfile.write(
        file,
        sound,
        SAMPLE_RATE,
        format=codec,
        subtype=subtype,
        compression_level=rng.uniform(0.3, 0.9),
    )
    decoded, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
    decoded.resize(len(sound), refcheck=False)  # MP3 adds a delay and padding
    return decoded
