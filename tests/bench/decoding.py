"""Decoding and resampling: this project's choice beside others.

A clip of ten seconds of 44.1 kHz stereo Vorbis, as OpenMIC-2018's, made here, on one thread.
Decoders give all samples as float32; this project's time with FFmpeg includes the search for damage
and the mean over channels. Resamplers go from 44.1 kHz mono to 16 kHz. Their quality is measured
in two ways: the log-mel of the clip against that of soxr's best, and the level left of a tone of
9 kHz, above the new Nyquist frequency, which should be removed. This project uses soxr HQ, the
fastest here that removes the tone and changes the log-mel by less than a hundredth, and FFmpeg,
which reads all common formats to their end.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import record
import scipy.signal
import soundfile
import soxr
import torch
import torchaudio
from features import RATE, write_sound

from ast_repr import audio, features

RATE_16K = audio.SAMPLE_RATE
QUALITIES = ("VHQ", "HQ", "MQ", "LQ", "QQ")
KAISER = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}  # torchaudio's own "best"
TONE_HZ = 9_000

Resample = Callable[[np.ndarray], np.ndarray]


def main(args: argparse.Namespace) -> None:
    """Time decoders and resamplers, and save the rows."""
    torch.set_num_threads(1)
    repeats = 3 if args.quick else 30
    decoders = {
        "soundfile (libsndfile)": decode_by_soundfile,
        "PyAV (FFmpeg)": decode_by_ffmpeg,
        "this project (PyAV), mono": audio.duration,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = write_sound(Path(folder) / "clip.ogg", 0)
        mono = decode_by_soundfile(path).mean(axis=1)
        work = {name: partial(decode, path) for name, decode in decoders.items()}
        seconds = record.alternate(work, repeats)
    rows = []
    for name, taken in seconds.items():
        row = {"decoder": name, **record.spread(taken)}
        row["times real time"] = audio.CLIP_SECONDS / float(np.median(taken))
        rows.append(row)
    record.save("decoding", rows + resampler_rows(mono, repeats))


def decode_by_soundfile(path: Path) -> np.ndarray:
    """Return (samples, channels) float32."""
    return soundfile.read(path, dtype="float32")[0]


def decode_by_ffmpeg(path: Path) -> np.ndarray:
    """Return (samples, channels) float32, planar as FFmpeg's Vorbis decoder gives it."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, axis=1).T


def resampler_rows(mono: np.ndarray, repeats: int) -> list[dict]:
    """Return a row per resampler: time, change of the log-mel, level left of the tone."""
    resamplers = make_resamplers()
    seconds = record.alternate(
        {name: partial(resample, mono) for name, resample in resamplers.items()}, repeats
    )
    feature = features.build("logmel")
    time_s = np.arange(len(mono)) / RATE
    tone = np.sin(2 * np.pi * TONE_HZ * time_s).astype(np.float32)
    best = None
    rows = []
    for name, resample in resamplers.items():
        log_mel = feature(torch.from_numpy(np.ascontiguousarray(resample(mono)))[None])
        if best is None:
            best = log_mel
        left = resample(tone)[RATE_16K:-RATE_16K]  # without the tone's onset and end
        row = {"resampler": name, **record.spread(seconds[name])}
        row["mean difference in log-mel"] = float((log_mel - best).abs().mean())
        row[f"left of {TONE_HZ / 1000:g} kHz, dB"] = float(20 * np.log10(np.abs(left).max()))
        rows.append(row)
    return rows


def make_resamplers() -> dict[str, Resample]:
    """Make {name: function from (n,) at RATE to (m,) at 16 kHz}, soxr's best first."""
    resamplers = {}
    for quality in QUALITIES:
        resamplers[f"soxr {quality}"] = partial(
            soxr.resample, in_rate=RATE, out_rate=RATE_16K, quality=quality
        )
    gcd = np.gcd(RATE, RATE_16K)
    resamplers["scipy, polyphase"] = partial(
        scipy.signal.resample_poly, up=RATE_16K // gcd, down=RATE // gcd
    )
    for name, options in (("Hann", {}), ("Kaiser", KAISER)):
        kernel = torchaudio.transforms.Resample(RATE, RATE_16K, **options)
        resamplers[f"torchaudio, {name}"] = partial(resample_by_torchaudio, kernel)
    return resamplers


def resample_by_torchaudio(kernel: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    """Return the samples resampled by a torchaudio transform."""
    return kernel(torch.from_numpy(samples)).numpy()


if __name__ == "__main__":
    main(record.parser(__doc__, device=False).parse_args())
