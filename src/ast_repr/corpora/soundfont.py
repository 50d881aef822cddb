"""Render notes with General MIDI soundfonts, and record them in random rooms.

Conventions
    notes: list of (start seconds, duration seconds, MIDI pitch, velocity 1..127).
    A drum part is `program=None`; its pitches are General MIDI's percussion keys.
    Rendering is at 44.1 kHz, quality 4: at 16 kHz the renderer diverges or never returns for many
    presets.
"""

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import symusic

RENDER_RATE = 44_100  # Hz
MAX_PITCH = 96  # from 101 on the renderer never returns for a dozen presets
# With TimGM6mb, the renderer reads memory that was never set for this preset (whistle): it diverges
# or not by chance, and plays later parts differently.
UNSTABLE_PRESET = 78
PEAK_LIMIT = 100.0  # a render above it has diverged (others stay below about 2)
SPEED_OF_SEMITONE = 2 ** (1 / 12)


def default_soundfont() -> Path:
    """Return the soundfont that pretty_midi carries, TimGM6mb."""
    return Path(importlib.util.find_spec("pretty_midi").origin).with_name("TimGM6mb.sf2")


def make_synthesizer(soundfont: Path) -> symusic.core.Synthesizer:
    """Make a synthesizer; it loads the samples of a preset when it first plays it."""
    return symusic.Synthesizer(str(soundfont), RENDER_RATE, 4)


def render(
    program: int | None,
    notes: Sequence[tuple],
    seconds: float,
    synthesizer: symusic.core.Synthesizer,
) -> np.ndarray | None:
    """Render one part.

    Args:
        program: General MIDI program 0..127, or None for the drum kit.
        notes: see Conventions.
        seconds: length of the result; the tail of the last note is cut there.
        synthesizer: from `make_synthesizer`; the sound of some presets depends on the other
            presets that it has played.

    Returns:
        float32 (seconds * 44100,) mono, or None if the renderer diverged (about 1 % of parts).

    Raises:
        ValueError: a pitch above MAX_PITCH.
    """
    highest = max((pitch for _, _, pitch, _ in notes), default=0)
    if highest > MAX_PITCH:
        raise ValueError(f"a note of pitch {highest}; the renderer is safe up to {MAX_PITCH}")
    track = symusic.Track(ttype="second", program=program or 0, is_drum=program is None)
    for start, duration, pitch, velocity in notes:
        track.notes.append(symusic.Note(start, duration, int(pitch), int(velocity), ttype="second"))
    score = symusic.Score(ttype="second")
    score.tracks.append(track)
    sound = np.asarray(synthesizer.render(score, stereo=False), dtype=np.float32).reshape(-1)
    samples = round(seconds * RENDER_RATE)
    sound = np.pad(sound[:samples], (0, max(0, samples - len(sound))))
    peak = np.abs(sound).max(initial=0.0)
    return sound if np.isfinite(peak) and 1e-4 < peak < PEAK_LIMIT else None


class Room:
    """A random room and microphone: reverberation, frequency response and background noise.

    Args:
        rng: generator that the room is drawn from.
        rate: sampling rate in Hz.
        samples: length of the recordings.
        dry: probability that the room has no reverberation.
        noise_db: range of the noise's level relative to the signal.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        rate: int,
        samples: int,
        dry: float = 0.15,
        noise_db: tuple[float, float] = (-70, -25),
    ):
        self.rate = rate
        self.samples = samples
        decay_s = rng.uniform(0.1, 1.2)  # to -60 dB
        time = np.arange(round(decay_s * rate)) / rate
        tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / decay_s)
        self.tail = tail / np.sqrt(np.sum(tail**2))
        self.wet = 0.0 if rng.random() < dry else rng.uniform(0.05, 0.6)
        # Gains at octaves from 40 Hz, between which the response is interpolated.
        self.anchors_db = np.cumsum(rng.normal(0, 2.0, 9))
        self.anchors_db -= self.anchors_db.mean()
        self.noise_db = rng.uniform(*noise_db)
        self.noise_slope = rng.uniform(0, 1.2)  # 0 white, 1 pink
        self.fft_size = 1 << (samples + len(tail) - 1).bit_length()

    @cached_property
    def _hz(self) -> np.ndarray:
        return np.maximum(np.fft.rfftfreq(self.fft_size, 1 / self.rate), 20.0)

    @cached_property
    def _response(self) -> np.ndarray:
        """Factors of the signal's spectrum."""
        gain_db = np.interp(np.log2(self._hz / 40.0), np.arange(9), self.anchors_db)
        reverberation = 1 + self.wet * np.fft.rfft(self.tail, self.fft_size)
        return reverberation * 10 ** (gain_db / 20)

    @cached_property
    def _noise_divisors(self) -> np.ndarray:
        """Divisors of the noise's spectrum."""
        return (self._hz / 1000) ** (self.noise_slope / 2)

    def record(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Record (samples,) at `rate` in this room, with noise from `rng`: float32 (samples,)."""
        spectrum = np.fft.rfft(sound, self.fft_size) * self._response
        signal = np.fft.irfft(spectrum, self.fft_size)[: self.samples]
        spectrum = np.fft.rfft(rng.standard_normal(self.samples), self.fft_size)
        noise = np.fft.irfft(spectrum / self._noise_divisors, self.fft_size)[: self.samples]
        signal_rms = np.sqrt(np.mean(signal**2))
        level = signal_rms * 10 ** (self.noise_db / 20) / np.sqrt(np.mean(noise**2))
        return (signal + level * noise).astype(np.float32)
