"""Decoding and resampling: what this project takes, and what else there is

A clip of ten seconds of 44.1 kHz stereo Vorbis, as OpenMIC-2018's, made here, on one thread.
Decoders give all of its samples as float32; what this project does with FFmpeg includes the search for
damage and the mean over channels. Resamplers go from 44.1 kHz mono to 16 kHz. What they change is seen
in two ways: in the log-mel of the clip, against soxr's best, and in what is left of a tone of 9 kHz,
above the new Nyquist frequency, which should not be heard at all.
This project takes soxr HQ, the quickest here that leaves nothing of the tone and changes the log-mel by
less than a hundredth, and FFmpeg, which reads what people have: every format, to its end.
"""

import tempfile
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
from features import RATE, sound

from ast_repr import audio, features

NEW = audio.SAMPLE_RATE
QUALITIES = ("VHQ", "HQ", "MQ", "LQ", "QQ")
KAISER = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}  # torchaudio's own "best"
TONE_HZ = 9_000


def main(args):
    torch.set_num_threads(1)
    repeats = 3 if args.quick else 30
    with tempfile.TemporaryDirectory() as folder:
        path = sound(Path(folder) / "clip.ogg", 0)
        mono = soundfile.read(path, dtype="float32")[0].mean(axis=1)
        taken = record.alternate(
            {name: partial(decode, path) for name, decode in decoders().items()}, repeats
        )
        rows = [
            {
                "decoder": name,
                **record.spread(seconds),
                "times real time": audio.CLIP_SECONDS / float(np.median(seconds)),
            }
            for name, seconds in taken.items()
        ]
    record.save("decoding", rows + resampled(mono, repeats))


def decoders():
    """{name: function of a path}."""
    return {
        "soundfile (libsndfile)": lambda path: soundfile.read(path, dtype="float32")[0],
        "PyAV (FFmpeg)": by_ffmpeg,
        "this project (PyAV), mono": audio.duration,
    }


def by_ffmpeg(path):
    """(samples, channels) float32."""
    with av.open(str(path)) as container:
        return np.concatenate(
            [frame.to_ndarray() for frame in container.decode(audio=0)], axis=1
        ).T  # planar float32, as its Vorbis decoder gives it


def resampled(mono, repeats):
    """Rows: what each resampler costs, what it does to the log-mel, and what it leaves of a tone that should go."""
    feature, work = features.build("logmel"), resamplers()
    tone = np.sin(2 * np.pi * TONE_HZ * np.arange(len(mono)) / RATE).astype(np.float32)
    log_mels = {
        name: feature(torch.from_numpy(np.ascontiguousarray(resample(mono)))[None])
        for name, resample in work.items()
    }
    rows = []
    for name, seconds in record.alternate(
        {name: partial(resample, mono) for name, resample in work.items()}, repeats
    ).items():
        left = work[name](tone)[
            NEW:-NEW
        ]  # without a second at each end, where the tone begins and stops
        rows.append(
            {
                "resampler": name,
                **record.spread(seconds),
                "mean difference in log-mel": float(
                    (log_mels[name] - log_mels["soxr VHQ"]).abs().mean()
                ),
                f"left of {TONE_HZ / 1000:g} kHz, dB": float(20 * np.log10(np.abs(left).max())),
            }
        )
    return rows


def resamplers():
    """{name: function from (n,) at RATE to (m,) at NEW}."""
    gcd = np.gcd(RATE, NEW)
    found = {
        f"soxr {quality}": partial(soxr.resample, in_rate=RATE, out_rate=NEW, quality=quality)
        for quality in QUALITIES
    }
    found["scipy, polyphase"] = lambda x: scipy.signal.resample_poly(x, NEW // gcd, RATE // gcd)
    for name, options in (("Hann", {}), ("Kaiser", KAISER)):
        found[f"torchaudio, {name}"] = (
            lambda x, kernel=torchaudio.transforms.Resample(RATE, NEW, **options): kernel(
                torch.from_numpy(x)
            ).numpy()
        )
    return found


if __name__ == "__main__":
    main(record.parser(__doc__, device=False).parse_args())
