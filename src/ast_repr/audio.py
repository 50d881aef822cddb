"""Audio in: any file to the waveform that every feature is computed from.

Conventions
    waveform: float32, mono, 16 kHz, within +-1, shape (samples,).
    Channels are averaged. Resampling is soxr's "HQ": a tone above the new Nyquist frequency is 140 dB down.
"""

import os
from contextlib import contextmanager
from functools import reduce
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
    with _opened(path) as sound:
        rate = sound.samplerate
        sound.seek(min(round(start_s * rate), sound.frames))
        samples = sound.read(
            -1 if seconds is None else round(seconds * rate), dtype="float32", always_2d=True
        )
    if len(samples) == 0:
        raise AudioError(f"{path}: no samples at or after {start_s:g} s")
    return np.clip(resample(_downmix(samples, path), rate, SAMPLE_RATE), -1.0, 1.0)


def stream(path, seconds=CLIP_SECONDS):
    """What `decode` gives of a whole file, in memory that does not grow with its length.

    Args:
        path: the file.
        seconds: how much of it is read at once.

    Yields:
        float32 arrays, shape (samples,), that follow each other: mono at 16 kHz, clipped to +-1; lengths differ, none is empty.

    Raises:
        AudioError: as `decode`; what is wrong late in a file is found late.
    """
    with _opened(path) as sound:
        resampler = soxr.ResampleStream(
            sound.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ"
        )
        count, made, last = 0, 0, False
        while not last:
            samples = sound.read(seconds * sound.samplerate, dtype="float32", always_2d=True)
            count, last = count + len(samples), len(samples) == 0
            block = resampler.resample_chunk(_downmix(samples, path), last=last)
            made += len(block)
            if len(block):
                yield np.clip(block, -1.0, 1.0)
        if not made:
            raise AudioError(
                f"{path}: too short to be heard: samples found: {count}, at {sound.samplerate} Hz"
            )


def windows(blocks, hop=CLIP_SAMPLES):
    """Cut blocks that follow each other into windows of ten seconds, the last of which ends with the sound.

    Args:
        blocks: iterable of arrays (..., n).
        hop: samples from the start of one window to that of the next, at least 1; the last may be nearer.

    Yields:
        (first sample, array (..., 160000)); there is one shorter window where there is less than ten seconds.

    >>> [(start, part.shape) for start, part in windows([np.zeros(170_000), np.zeros(230_000)])]
    [(0, (160000,)), (160000, (160000,)), (240000, (160000,))]
    """
    kept, end, start = None, 0, 0
    for block in blocks:
        kept = block if kept is None else np.concatenate([kept, block], axis=-1)
        end += block.shape[-1]
        begin = end - kept.shape[-1]
        while start + CLIP_SAMPLES < end:
            yield start, kept[..., start - begin : start - begin + CLIP_SAMPLES]
            start += hop
        kept = kept[..., -CLIP_SAMPLES:]
    if kept is not None:
        yield end - kept.shape[-1], kept


@contextmanager
def _opened(path):
    """A SoundFile; what keeps it from being opened or read becomes an AudioError."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise AudioError(f"{path}: a link to a file that is not there ({path.readlink()})")
    if path.is_dir():
        raise AudioError(
            f"{path}: a folder, expected an audio file, or a folder that has some in it"
        )
    if not path.is_file():
        raise AudioError(f"{path}: no such audio file")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: may not be read; change its permissions")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:  # as bytes: a name need not be text
            yield sound
    except RuntimeError as error:  # libsndfile's are of this kind too
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(
            f"{path}: not readable as audio ({reason}); wav, flac, ogg and mp3 are read, other formats need converting first"
        ) from error


def _downmix(samples, path):
    """(samples, channels) -> (samples,), the mean over channels; samples that are not finite are refused."""
    mono = (
        reduce(np.add, samples.T) / samples.shape[1]
    )  # samples.mean(axis=1) takes eighteen times as long
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds samples that are not finite numbers")
    return mono


def resample(waveform, rate, new_rate):
    """Resample (samples,) float32 from `rate` to `new_rate` Hz; rates may be fractional."""
    return waveform if rate == new_rate else soxr.resample(waveform, rate, new_rate, quality="HQ")


def fit(waveform, samples=CLIP_SAMPLES):
    """Cut (n,) at the end, or pad it with zeros there, to (samples,)."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
