"""Sounds without music: noise, hum, clicks and something like speech, as counterexamples."""

import numpy as np

from ..audio import CLIP_SECONDS, SAMPLE_RATE

SAMPLES = CLIP_SECONDS * SAMPLE_RATE
FORMANTS_HZ = ((250, 900), (800, 2500), (2200, 3300))  # ranges of a vowel's three resonances


def draw(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draw ten seconds: (waveform float32 (160000,) at 16 kHz, its kind, a key of KINDS)."""
    kind = str(rng.choice(sorted(KINDS)))
    sound = KINDS[kind](rng)
    swells = np.interp(np.arange(SAMPLES), np.linspace(0, SAMPLES, 6), rng.uniform(0.3, 1, 6))
    sound = sound * swells
    sound *= 10 ** (rng.uniform(-40, -1) / 20) / np.abs(sound).max()
    return sound.astype(np.float32), kind


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls with frequency, from white to brown."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLES))
    hz = np.maximum(np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(spectrum / hz ** rng.uniform(0, 1), SAMPLES)


def _hum(rng: np.random.Generator) -> np.ndarray:
    """Hum of mains or a motor in noise: a tone that never changes, and its harmonics."""
    hz = rng.choice([50.0, 60.0, rng.uniform(30, 400)])
    time = np.arange(SAMPLES) / SAMPLE_RATE
    sound = np.zeros(SAMPLES)
    for harmonic in range(1, int(rng.integers(2, 12))):
        level = rng.uniform(0.1, 1) / harmonic
        sound += level * np.sin(2 * np.pi * hz * harmonic * time + rng.uniform(0, 2 * np.pi))
    noise = _noise(rng)
    return sound / sound.std() + rng.uniform(0.02, 0.5) * noise / noise.std()


def _clicks(rng: np.random.Generator) -> np.ndarray:
    """Clicks, knocks or crackle at random times: short bursts of noise, on faint noise."""
    sound = np.zeros(SAMPLES)
    count = int(10 ** rng.uniform(0.5, 3))
    decay_s = 10 ** rng.uniform(-3.5, -1.8)
    length = round(5 * decay_s * SAMPLE_RATE) + 1
    envelope = np.exp(-np.arange(length) / (decay_s * SAMPLE_RATE))
    for start in rng.integers(0, SAMPLES - length, count):
        burst = rng.standard_normal(length) * envelope
        sound[start : start + length] += rng.uniform(0.1, 1) * burst
    noise = _noise(rng)
    return sound / np.abs(sound).max() + 10 ** rng.uniform(-4, -2) * noise / noise.std()


def _speech(rng: np.random.Generator) -> np.ndarray:
    """Syllables like those of one to three speakers: pulses or noise through moving formants."""
    sound = np.zeros(SAMPLES)
    for _ in range(rng.integers(1, 4)):
        speaker_hz = rng.uniform(80, 260)
        start = rng.integers(0, SAMPLE_RATE)
        while start < SAMPLES:
            syllable = _syllable(rng, speaker_hz)[: SAMPLES - start]
            sound[start : start + len(syllable)] += syllable
            pause_s = rng.uniform(0.2, 0.8) if rng.random() < 0.15 else rng.uniform(0, 0.06)
            start += len(syllable) + round(pause_s * SAMPLE_RATE)
    return sound


def _syllable(rng: np.random.Generator, speaker_hz: float) -> np.ndarray:
    length = round(rng.uniform(0.08, 0.3) * SAMPLE_RATE)
    if rng.random() < 0.2:
        source = rng.standard_normal(length)
    else:
        hz = speaker_hz * np.linspace(*rng.uniform(0.8, 1.25, 2), length)  # a glide
        phase = np.cumsum(hz) / SAMPLE_RATE
        source = np.diff(np.floor(phase), prepend=0.0)  # a pulse per period
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    response = np.zeros(len(hz))
    for low, high in FORMANTS_HZ:
        centre = rng.uniform(low, high)
        response += rng.uniform(0.2, 1) / (1 + ((hz - centre) / 80) ** 2)
    syllable = np.fft.irfft(np.fft.rfft(source) * response, length) * np.hanning(length)
    return rng.uniform(0.3, 1) * syllable / np.abs(syllable).max(initial=1e-9)


KINDS = {"noise": _noise, "hum": _hum, "clicks": _clicks, "speech": _speech}
