"""Pitch and tempo: a warp of a feature's bands against one of the spectrogram before its filters.

Features are stored after their mel filters, so training warps the powers of the bands. Schlüter and
Grill (2015) warp the magnitudes of the spectrogram, before the filters. Resampling the waveform
changes tempo and pitch by the same ratio exactly. All three are compared, at ratios from 0.7 to
1.3: absolute differences in decibels of cells within 40 dB of the loudest, below the highest
frequency that resampling leaves. The columns are medians over cells, and one 90th percentile,
averaged over clips. With paths of audio files, these are measured, and nothing is written.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import features as clips
import numpy as np
import record
import torch

from ast_repr import audio, features
from ast_repr.features import spectrum

RATIOS = (0.7, 0.9, 1.1, 1.3)
SINUSOIDS_HZ = (220, 800, 2500)
RANGE_DB = 40
FFT_BINS = 257  # of all three features
COLUMNS = (
    "bands, spectrogram: 90 % dB",
    "bands, spectrogram: dB",
    "bands, resampled: dB",
    "spectrogram, resampled: dB",
)
Filters = Callable[[torch.Tensor], torch.Tensor]


def main(args: argparse.Namespace) -> None:
    """Measure each feature, kind of audio and ratio."""
    waveforms = {"files": [audio.decode(path) for path in args.paths]}
    if not args.paths:
        waveforms = {"tones and noise": tones(1 if args.quick else 4), "sinusoids": sinusoids()}
    rows = []
    for name in ("logmel", "logmel_vggish", "musicnn_mel"):
        for kind, kept in waveforms.items():
            for ratio in RATIOS[:1] if args.quick else RATIOS:
                errors = [compare(name, waveform, ratio) for waveform in kept]
                columns = dict(zip(COLUMNS, np.mean(errors, axis=0).tolist(), strict=True))
                rows.append({"feature": name, "audio": kind, "ratio": ratio} | columns)
    if args.paths:
        print(*record.aligned(rows), sep="\n")
    else:
        record.save("warp", rows)


def tones(count: int) -> list[np.ndarray]:
    """Return clips of decaying harmonic tones and noise, as in `features.py`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        return [audio.decode(clips.write_sound(path / f"{n}.ogg", n)) for n in range(count)]


def sinusoids() -> list[np.ndarray]:
    """Return sinusoids of ten seconds."""
    time = np.arange(audio.CLIP_SAMPLES) / audio.SAMPLE_RATE
    return [np.float32(0.3 * np.sin(2 * np.pi * hz * time)) for hz in SINUSOIDS_HZ]


def compare(name: str, waveform: np.ndarray, ratio: float) -> list[float]:
    """Compute the differences of COLUMNS for a waveform of ten seconds."""
    feature = features.build(name)
    waveform = audio.fit(waveform)
    magnitudes, to_power = spectrogram(name, waveform)
    faster = audio.resample(waveform, audio.SAMPLE_RATE * ratio, audio.SAMPLE_RATE)
    exact = to_power(spectrogram(name, faster)[0])
    ratios = torch.tensor([ratio])
    hz = torch.linspace(0, audio.SAMPLE_RATE / 2, FFT_BINS, dtype=torch.float64)
    before = to_power(spectrum.warp(magnitudes, ratios, ratios, hz))
    after = feature.warp(to_power(magnitudes), ratios, ratios)
    frames = min(exact.shape[2], before.shape[2]) - 4  # resampling changes the last ones
    bands = int((feature.hz < 0.95 * hz[-1] * min(ratio, 1)).sum())
    exact, before, after = (power[0, 0, :frames, :bands] for power in (exact, before, after))
    audible = exact > 10 ** (-RANGE_DB / 10) * exact.max()

    def differences(one, other):
        return (10 * (one[audible] / other[audible]).log10()).abs()

    pairs = [(after, before), (after, exact), (before, exact)]
    medians = [differences(*pair).median().item() for pair in pairs]
    return [differences(after, before).quantile(0.9).item(), *medians]


def spectrogram(name: str, waveform: np.ndarray) -> tuple[torch.Tensor, Filters]:
    """Return magnitudes (1, 1, T, FFT_BINS) and the function from them to the powers of bands."""
    waveforms = torch.from_numpy(np.float32(waveform))[None]
    feature = features.build(name)
    if name == "musicnn_mel":
        magnitudes = spectrum.magnitudes(waveforms, feature.window, len(feature.window) // 2)
        return magnitudes[:, None], lambda x: x.square() @ feature.filters
    if name == "logmel_vggish":
        frames = waveforms.unfold(1, len(feature.window), 160) * feature.window
        magnitudes = torch.fft.rfft(frames, 2 * (FFT_BINS - 1)).abs()
        return magnitudes[:, None], lambda x: (x @ feature.filters).square()
    unfiltered = features.build(name, frames=len(waveform) // 160 - 2)
    unfiltered.bins = FFT_BINS
    unfiltered.banks = torch.eye(FFT_BINS)
    return unfiltered(waveforms).exp().sqrt(), lambda x: x.square() @ feature.banks


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = record.parser(__doc__, device=False)
    parser.add_argument("paths", nargs="*", help="audio files of ten seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
