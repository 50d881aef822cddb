"""The source task of the shipped backbone: which General MIDI preset or drum plays?

128 presets and 47 percussion keys give 175 classes, none of which is a label of the target task,
and no crop is a mixture. Each crop plays one of them: notes, chords or hits at random pitches, with
shifted formants, in a random room, at a random level.
"""

import numpy as np
import pretty_midi
import soxr

from ..audio import SAMPLE_RATE
from .soundfont import MAX_PITCH, RENDER_RATE, SPEED_OF_SEMITONE, Room, render

PRESETS = 128
DRUM_KEYS = range(35, 82)  # General MIDI percussion
CLASSES = [
    *[pretty_midi.program_to_instrument_name(program) for program in range(PRESETS)],
    *[f"Drum: {pretty_midi.note_number_to_drum_name(key)}" for key in DRUM_KEYS],
]
CROP_SECONDS = 3.215  # 320 frames: a training step takes 256 of them at a random position


def draw(seed: int, index: int) -> tuple[np.ndarray, int]:
    """Render crop number `index` of the stream `seed`.

    Returns:
        (waveform float32 (51440,) at 16 kHz, class index): the classes take turns, so any 175
        consecutive crops have each once.
    """
    rng = np.random.default_rng([seed, index])
    label = index % len(CLASSES)
    while True:
        # Playing the render faster or slower also shifts the formants.
        speed = SPEED_OF_SEMITONE ** rng.uniform(-4, 4)
        start_s = rng.uniform(0, 1.0)
        seconds = (start_s + CROP_SECONDS) * speed
        if label < PRESETS:
            sound = render(label, _preset_notes(rng, seconds), seconds + 0.1)
        else:
            notes = _drum_notes(rng, seconds, DRUM_KEYS[label - PRESETS])
            sound = render(None, notes, seconds + 0.1)
        if sound is None:
            continue
        sound = soxr.resample(sound, RENDER_RATE * speed, SAMPLE_RATE, quality="HQ")
        first = round(start_s * SAMPLE_RATE)
        sound = sound[first : first + round(CROP_SECONDS * SAMPLE_RATE)]
        if np.abs(sound).max() > 1e-3:
            break
    recorded = Room(rng, SAMPLE_RATE, dry=0.3).record(sound, rng)
    return recorded * 10 ** (rng.uniform(-30, -1) / 20) / np.abs(recorded).max(), label


def _preset_notes(rng: np.random.Generator, seconds: float) -> list[tuple]:
    """Draw a line or chords of one preset: from a single held note to a fast run."""
    centre = rng.uniform(40, 84)
    spread = rng.uniform(1, 9)
    voices = rng.choice([1, 1, 1, 2, 3])
    step = rng.choice([0.12, 0.2, 0.35, 0.6, 1.2, 4.0])
    notes = []
    time = rng.uniform(0, 0.2)
    while time < seconds:
        for pitch in rng.normal(centre, spread, voices):
            length = step * rng.uniform(0.4, 1.2)
            pitch = np.clip(round(pitch), 24, MAX_PITCH)
            notes.append((time, length, pitch, rng.integers(45, 127)))
        time += step * rng.uniform(0.8, 1.25)
    return notes


def _drum_notes(rng: np.random.Generator, seconds: float, key: int) -> list[tuple]:
    """Draw hits of one percussion key in a loose rhythm."""
    step = rng.choice([0.15, 0.3, 0.5, 1.0, 1.6])
    notes = []
    time = rng.uniform(0, 0.3)
    while time < seconds:
        notes.append((time, 0.5, key, rng.integers(45, 127)))
        time += step * rng.uniform(0.7, 1.4)
    return notes
