"""Audio in: any file to the waveform that every feature is computed from.

Conventions
    waveform: float32, mono, 16 kHz, within +-1, shape (samples,).
    Channels are averaged. Resampling is soxr's "HQ": a tone above the new Nyquist frequency is 140 dB down.
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz, what AST was trained on
CLIP_SECONDS = 10
CLIP_SAMPLES = CLIP_SECONDS * SAMPLE_RATE  # 160,000 samples in a clip


class AudioError(ValueError):
    """A file that cannot be turned into a waveform; the message names the file and the reason."""


def decode(path, start_s=0.0, seconds=None):
    """Read an audio file (wav, flac, ogg, mp3) as a waveform.

    Args:
        path: the file.
        start_s: offset of the first sample, in seconds.
        seconds: how much to read; None reads to the end.

    Returns:
        float32 array, shape (samples,), mono at 16 kHz, clipped to +-1.

    Raises:
        AudioError: the file is missing, empty, not audio, truncated to nothing, or holds non-finite samples.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such audio file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    try:
        with soundfile.SoundFile(path) as sound:
            rate = sound.samplerate
            sound.seek(min(round(start_s * rate), sound.frames))
            samples = sound.read(-1 if seconds is None else round(seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"{path}: not readable as audio ({error}); wav, flac, ogg and mp3 are read, other formats need converting first"
        ) from error
    if len(samples) == 0:
        raise AudioError(f"{path}: no samples at or after {start_s:g} s")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    return np.clip(resample(mono, rate, SAMPLE_RATE), -1.0, 1.0)


def resample(waveform, rate, new_rate):
    """Resample (samples,) float32 from `rate` to `new_rate` Hz; rates may be fractional."""
    return waveform if rate == new_rate else soxr.resample(waveform, rate, new_rate, quality="HQ")


def fit(waveform, samples=CLIP_SAMPLES):
    """Cut (n,) at the end, or pad it with zeros there, to (samples,)."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
